"""Packaging of swirl_jax: CPU by default; `.[tpu]` and `.[cuda]` add what an accelerator needs."""

import pathlib
import re

import setuptools

_HERE = pathlib.Path(__file__).parent


def _version() -> str:
  """The version as `swirl_jax/__init__.py` states it, read without importing the package."""
  text = (_HERE / "swirl_jax" / "__init__.py").read_text()
  return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


def _readme() -> str:
  path = _HERE / "README.md"
  return path.read_text() if path.exists() else ""


setuptools.setup(
  name="swirl_jax",
  version=_version(),
  description="World models that improve themselves from states alone (SWIRL), in JAX.",
  long_description=_readme(),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=setuptools.find_packages(include=["swirl_jax", "swirl_jax.*"]),
  install_requires=[
    "absl-py>=2.3",
    "array_record>=0.8.1",
    "chex>=0.1.92",
    "flax>=0.12.8",
    "grain>=0.2.18",
    "huggingface_hub>=1.0",
    "importlib_resources>=6.0",  # tensorflow-datasets 4.9.10 imports it and doesn't declare it
    "jax>=0.10.2",
    "jinja2>=3.1",  # chat templates; transformers doesn't declare it
    "minigrid>=3.0",
    "ml-collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11.0",
    "rouge-score>=0.1.2",
    "sacrebleu>=2.4",
    "tensorboardX>=2.6.2",
    "tensorflow-datasets>=4.9.9",
    "tokenizers>=0.22",
    "tqdm>=4.66",
    "transformers>=5.0",
  ],
  extras_require={
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda13]>=0.10.2"],
    # bfcl-eval itself pins numpy 1, so a second command installs it: docs/worlds/tools.md.
    "tools": ["mpmath>=1.3"],
    # The pages decide what is collected; Chromium and chromedriver are the system's (docs/worlds).
    "miniwob": ["miniwob==1.1.0", "selenium>=4.30"],
    "scienceworld": ["scienceworld==1.2.3"],  # and Java: docs/worlds/scienceworld.md
    # Videos and parquet (docs/worlds/official.md), CLIP in evaluations of worlds of images.
    "visual": ["av>=15.0", "onnxruntime>=1.20", "pyarrow>=15.0"],
    "test": [
      "av>=15.0",
      "hypothesis>=6.100",
      "onnx>=1.17",
      "pytest>=8.0",
      "pytest-xdist>=3.6",
      "ruff>=0.12",
      "safetensors>=0.5",
    ],
  },
  classifiers=[
    "Development Status :: 3 - Alpha",
    "Intended Audience :: Science/Research",
    "Programming Language :: Python :: 3",
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
  ],
)
