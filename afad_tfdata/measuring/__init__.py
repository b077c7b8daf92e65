"""The parts of ``afad-gpu-check``; `afad_tfdata.gpu_check` is its front door."""
