"""The paper's theorems and the practice, on worlds small enough to compute everything exactly."""
