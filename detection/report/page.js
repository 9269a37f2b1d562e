// Without JavaScript, the rows stand in the order of the classes, and images keep their size.
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
// Enlarge an image in a dialog: click, Enter or Space opens it; Escape, the button or another click closes it.
function enlarge(image) {
  const dialog = document.createElement("dialog"), large = image.cloneNode(), close = document.createElement("button");
  dialog.className = "enlarged";
  dialog.setAttribute("aria-label", image.alt);
  for (const name of ["class", "role", "tabindex", "aria-label", "loading"]) large.removeAttribute(name);
  close.textContent = "Close";
  close.autofocus = true;
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", event => { if (event.target !== close) dialog.close(); });
  dialog.addEventListener("close", () => dialog.remove());
  dialog.append(close, large);
  document.body.append(dialog);
  dialog.showModal();
}
for (const image of document.querySelectorAll("img.zoom")) {
  image.classList.add("live");
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-label", "Enlarge: " + image.alt);
  image.addEventListener("click", () => enlarge(image));
  image.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); enlarge(image); }
  });
}
// Show the images with a class; without JavaScript, all images are there and there is no choice.
for (const choice of document.querySelectorAll(".filter")) {
  choice.hidden = false;
  choice.querySelector("select").addEventListener("change", event => {
    for (const one of document.querySelectorAll("[data-classes]"))
      one.hidden = event.target.value !== "" && !one.dataset.classes.split(" ").includes(event.target.value);
  });
}
