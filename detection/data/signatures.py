"""Signatures and suffixes of the image files that the toolkit reads."""

PNG, JPEG, GIF, NPY = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", (b"GIF87a", b"GIF89a"), b"\x93NUMPY"

SUFFIXES = {".npy", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".gif", ".webp", ".avif"}
SUFFIXES |= {".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".ras"}
