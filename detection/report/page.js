// Sort a table by the column that is clicked; without this the rows stand in the order of the classes.
for (const table of document.querySelectorAll("table.sortable")) {
  table.classList.add("live");
  table.querySelectorAll("th").forEach((head, column) => {
    let down = true;
    head.addEventListener("click", () => {
      const key = row => row.cells[column].textContent;
      const value = row => (isNaN(parseFloat(key(row))) ? -1 : parseFloat(key(row)));
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (column ? value(b) - value(a) : key(b).localeCompare(key(a))) * (down ? 1 : -1));
      down = !down;
      table.tBodies[0].append(...rows);
    });
  });
}
