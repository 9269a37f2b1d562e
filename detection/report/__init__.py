"""What an evaluation tells beyond twelve numbers: analysis, page, comparison."""
