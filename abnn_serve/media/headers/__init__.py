"""Headers of image and video files, read without decoding: what decoding would cost."""
