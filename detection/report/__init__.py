"""Report an evaluation beyond the twelve COCO metrics: analysis, page, comparison."""
