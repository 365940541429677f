"""A job's `dataset/` folder: its images and captions, how they are read, prepared and hashed."""
