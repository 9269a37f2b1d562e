"""From pictures to detections and back to pictures: one image, many, tiles of a large one, videos."""
