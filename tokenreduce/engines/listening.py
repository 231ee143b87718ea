"""Which ports the processes of a run listen at, as the operating system has it."""

from __future__ import annotations

from collections import defaultdict
from ipaddress import ip_address


def listening() -> list[str]:
    """Return for each address the programs and ports of this process and those it has started.

    Returns
    -------
    list
        Lines such as ``127.0.0.1: gcs_server 6379, raylet 40001 40002``; ``0.0.0.0`` and ``::``
        mean every address of the machine.
    """
    import psutil

    found: defaultdict[str, defaultdict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        try:
            name = "this process" if process == this else process.name()
            for socket in process.net_connections("inet"):
                if socket.status == psutil.CONN_LISTEN:
                    found[_plain(socket.laddr.ip)][name].add(socket.laddr.port)
        except psutil.Error:  # it ended meanwhile
            continue
    return [f"{address}: {_programs(ports)}" for address, ports in sorted(found.items())]


def _plain(address: str) -> str:
    """Return an IPv4 address that is written as an IPv6 one as what it is."""
    parsed = ip_address(address)
    mapped = parsed.ipv4_mapped if parsed.version == 6 else None
    return str(mapped or parsed)


def _programs(ports: dict[str, set[int]]) -> str:
    return ", ".join(f"{name} {' '.join(map(str, sorted(ports[name])))}" for name in sorted(ports))
