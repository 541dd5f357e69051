"""Where SLURM's programs, plugins and libraries lie: installed on the machine, or unpacked into a folder."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from slurm.errors import RequestError

PACKAGE_OF = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "slurmstepd": "slurmd",
    "sbatch": "slurm-client",
    "scontrol": "slurm-client",
    "sinfo": "slurm-client",
    "srun": "slurm-client",
}
"""Program -> the Debian package it comes in: what a cluster without accounting needs."""

ACCOUNTING_PACKAGE_OF = {
    "slurmdbd": "slurmdbd",
    "sacctmgr": "slurm-client",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
}
"""What accounting needs on top."""


@dataclass(frozen=True)
class Packages:
    """Debian's SLURM packages as they lie under ``root``.

    ``Packages(None)`` are those installed on this machine; ``Packages(folder)`` are those that ``dpkg -x`` put there,
    which find neither their libraries nor each other without being told.
    """

    root: Path | None
    """The folder the packages were unpacked into, or None when they are installed."""

    def binary(self, name: str) -> Path:
        """The program ``name``.

        Raises:
            RequestError: when it is not there; the message names the ``apt-get`` command.
        """
        found = self._find(name)
        if found is None:
            raise self._missing([name])
        return found

    def check(self, accounting: bool) -> None:
        """Make sure that every program a testbed needs is there.

        Raises:
            RequestError: names what is missing and the one command that brings it.
        """
        needed = [*PACKAGE_OF, *(ACCOUNTING_PACKAGE_OF if accounting else ())]
        missing = [name for name in needed if self._find(name) is None]
        if missing:
            raise self._missing(missing)

    @cached_property
    def plugin_folder(self) -> Path | None:
        """Where SLURM's plugins lie, or None when the programs know it themselves."""
        if self.root is None:
            return None
        for folder in sorted((self.root / "usr/lib").glob("*/slurm*")):
            if any(folder.glob("auth_*.so")):
                return folder
        raise RequestError(
            f"no SLURM plugins under {self.root}/usr/lib", f"dpkg -x slurm-wlm-basic-plugins_*.deb {self.root}"
        )

    def environment(self) -> dict[str, str]:
        """What the programs need around them, as whole values of variables; empty when they are installed."""
        if self.root is None:
            return {}
        libraries = {str(path.parent) for path in (self.root / "usr/lib").rglob("*.so.*")}
        paths = {
            "PATH": [str(self.root / folder) for folder in ("usr/bin", "usr/sbin", "bin", "sbin")],
            "LD_LIBRARY_PATH": [str(self.plugin_folder), *sorted(libraries)],
        }
        return {
            name: os.pathsep.join([*folders, *filter(None, os.environ.get(name, "").split(os.pathsep))])
            for name, folders in paths.items()
        }

    def version(self) -> str:
        """SLURM's version, such as ``22.05.8``."""
        answer = subprocess.run(
            [self.binary("slurmctld"), "-V"],
            env={**os.environ, **self.environment()},
            capture_output=True,
            text=True,
            check=False,
        )
        words = answer.stdout.split()
        if answer.returncode != 0 or not words:
            raise RequestError(
                f"{self.binary('slurmctld')} does not run ({(answer.stderr.strip() or 'no answer').splitlines()[-1]})",
                "unpack the packages it depends on beside it" if self.root else "reinstall the package slurmctld",
            )
        return words[-1]

    def _find(self, name: str) -> Path | None:
        # Debian names the daemons slurmd-wlm and so on; the plain names are links made when a package is installed.
        for candidate in (name, f"{name}-wlm"):
            found = shutil.which(candidate, path=self._search_path)
            if found:
                return Path(found)
        return None

    @cached_property
    def _search_path(self) -> str:
        if self.root is not None:
            folders = [str(self.root / folder) for folder in ("usr/sbin", "usr/bin", "sbin", "bin")]
        else:
            folders = [os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        return os.pathsep.join(folders)

    def _missing(self, programs: list[str]) -> RequestError:
        owners = PACKAGE_OF | ACCOUNTING_PACKAGE_OF
        wanted = {owners.get(name, name): None for name in programs}
        if any(name in PACKAGE_OF for name in programs):
            wanted = dict.fromkeys(PACKAGE_OF.values()) | wanted
        if self.root is None:
            return RequestError(f"not installed: {', '.join(programs)}", f"apt-get install --yes {' '.join(wanted)}")
        libraries = ["libmunge2", "slurm-wlm-basic-plugins"]
        if any(name in ACCOUNTING_PACKAGE_OF for name in programs):
            libraries += ["libmariadb3", "slurm-wlm-mysql-plugin"]
        names = " ".join([*wanted, *libraries])
        return RequestError(
            f"not under {self.root}: {', '.join(programs)}", f"apt-get download {names}, then dpkg -x each into it"
        )
