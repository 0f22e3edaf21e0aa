"""Ways to write an address that must not be reached, so that somebody might take it for something else."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address


def _v4(text: str) -> tuple[IPv4Address, ...]:
    return tuple(map(IPv4Address, text.split()))


def _v6(text: str) -> tuple[IPv6Address, ...]:
    return tuple(map(IPv6Address, text.split()))


# Written out, not read off the table that is to be tested.
FORBIDDEN_V4 = _v4(
    """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
    168.63.129.16 169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
    192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1 192.168.255.255 192.175.48.1 198.18.0.1 198.19.255.255
    198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
    """
)
FORBIDDEN_V6 = _v6(
    """
    :: ::1 ::2 100::1 100:0:0:1::1 200::1 1000::1 2001::1 2001:2::1 2001:10::1 2001:20::1 2001:1ff:ffff::1
    2001:db8::1 2002::1 2620:4f:8000::1 3ffe::1 3fff::1 3fff:fff:ffff::1 4000::1 5f00::1 64:ff9b::1 64:ff9b:1::1
    8000::1 fc00::1 fd00:ec2::254 fd20:ce::254 fdff::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 ffff::1
    """
)
# Neighbours of the forbidden ranges, and well-known ones.
PUBLIC_V4 = _v4(
    """
    1.0.0.0 1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0
    168.63.129.15 168.63.129.17 169.253.255.255 169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0
    192.0.3.0 192.31.195.255 192.31.197.0 192.52.192.255 192.52.194.0 192.88.98.255 192.88.100.0 192.167.255.255
    192.169.0.0 192.175.47.255 192.175.49.0 198.17.255.255 198.20.0.0 198.51.99.255 198.51.101.0 203.0.112.255
    203.0.114.0 223.255.255.255
    """
)
PUBLIC_V6 = _v6(
    """
    2000:: 2001:200:: 2001:db7:ffff::1 2001:db9:: 2001:ffff::1 2003:: 2606:4700::1111 2620:4f:7fff::1
    2620:4f:8001:: 2a00:: 3ffd:ffff::1 3fff:1000:: 3fff:ffff::1
    """
)

_FULL_WIDTH = str.maketrans("0123456789.", "０１２３４５６７８９．")
_CIRCLED = str.maketrans("123456789", "①②③④⑤⑥⑦⑧⑨")
_ARABIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")


def embedded(address: IPv4Address) -> Iterator[IPv6Address]:
    """The IPv6 addresses that have this one inside and lead to it, on some network."""
    number = int(address)
    yield IPv6Address(number)  # compatible
    yield IPv6Address((0xFFFF << 32) | number)  # mapped
    yield IPv6Address((0xFFFF << 48) | number)  # translated
    yield IPv6Address(int(IPv6Address("64:ff9b::")) | number)
    yield IPv6Address(int(IPv6Address("64:ff9b:1::")) | number)
    yield IPv6Address((0x2002 << 112) | (number << 80) | 1)  # 6to4
    yield IPv6Address((0x20010000 << 96) | (number << 64))  # Teredo, as the server
    yield IPv6Address((0x20010000 << 96) | (number ^ 0xFFFF_FFFF))  # and as the client


def odd_v4(address: IPv4Address) -> Iterator[str]:
    """Hosts other than the dotted quad that some reader takes for this IPv4 address."""
    number = int(address)
    octets = [number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255]
    a, b, c, d = octets
    dotted = str(address)
    yield str(number)
    yield f"{number:#x}"
    yield f"{number:#x}".upper()
    yield f"0{number:o}"
    yield f"{number:#014x}"
    yield f"{number + (1 << 32)}"  # wraps around, for a careless reader
    yield f"{a}.{number & 0xFFFFFF}"
    yield f"{a:#x}.{number & 0xFFFFFF}"
    yield f"{a}.{b}.{number & 0xFFFF}"
    yield f"{a}.{b}.{number & 0xFFFF:#x}"
    yield ".".join(f"{octet:#x}" for octet in octets)
    yield ".".join(f"0{octet:o}" for octet in octets)
    yield ".".join(f"{octet:04o}" for octet in octets)
    yield ".".join(f"{octet:03}" for octet in octets) if max(octets) < 100 else f"0{dotted}"
    yield f"{a:#x}.0{b:o}.{c}.{d}"
    yield f"{a}.{b}.{c}.{d + 256}"
    yield f"{dotted}."
    yield f"{number}."
    yield f"{a}.{number & 0xFFFFFF}."
    yield f"{dotted}.."
    yield f".{dotted}"
    yield f"{dotted}.0"
    yield f"[{dotted}]"
    yield dotted.translate(_FULL_WIDTH)
    yield dotted.replace(".", "。")
    yield dotted.replace(".", "｡")
    yield dotted.translate(_ARABIC)
    yield dotted.translate(_CIRCLED) if dotted.translate(_CIRCLED) != dotted else "⓪.⓪.⓪.⓪"
    yield "".join(f"%{ord(character):02x}" for character in dotted)
    yield dotted.replace(".", "%2e")
    yield f"{dotted}%00"
    yield f"{dotted}%20"
    yield f"\u200b{dotted}"
    yield f"{a}.{b}.\u00ad{c}.{d}"


def written_v6(address: IPv6Address) -> Iterator[str]:
    """The URL hosts for an IPv6 address, every one of which is one, and then some that are none."""
    yield f"[{address}]"
    yield f"[{address.exploded}]"
    yield f"[{address.exploded.upper()}]"
    number = int(address)
    yield f"[{IPv6Address(number >> 32 << 32).exploded[:29]}:{IPv4Address(number & 0xFFFF_FFFF)}]"
    yield f"[{address}%eth0]"
    yield f"[{address}%25eth0]"
    yield f"[{address}%1]"
    yield f"[{address}].example.com"
    yield f"[{address}"
    yield str(address)
    yield f"{address}]"
    yield f"[[{address}]]"
    yield f"[{str(address).replace(':', '%3a')}]"
    yield f"[{str(address).replace(':', '：')}]"
    yield f"[::{'f' * 4}:{address}]"


def tricks(host: str) -> Iterator[str]:
    """Whole URLs of which one reader sees ``host`` and another one ``hooks.example``."""
    yield f"https://hooks.example@{host}/"
    yield f"https://hooks.example:443@{host}/"
    yield f"https://hooks.example:secret@{host}:8443/"
    yield f"https://{host}@hooks.example/"
    yield f"https://@{host}/"
    yield f"https://{host}:@hooks.example/"
    yield f"https://hooks.example\\@{host}/"
    yield f"https://{host}\\@hooks.example/"
    yield f"https://{host}\\.hooks.example/"
    yield f"https://hooks.example#@{host}/"
    yield f"https://{host}#@hooks.example/"
    yield f"https://{host}#.hooks.example/"
    yield f"https://hooks.example%23@{host}/"
    yield f"https://hooks.example%2f@{host}/"
    yield f"https://hooks.example%00@{host}/"
    yield f"https://hooks.example %20@{host}/"
    yield f"https:\\\\{host}\\"
    yield f"https:/{host}/"
    yield f"https:{host}/"
    yield f"https:///{host}/"
    yield f"//{host}/"
    yield f"{host}/"
    yield f" https://{host}/"
    yield f"https://{host}/ "
    yield f"https://{host}\t/"
    yield f"ht\ntps://{host}/"
    yield f"https://\r\n{host}/"
    yield f"https://hooks.example\r\nhost: {host}/"
    yield f"https://{host}:443:443/"
    yield f"https://{host}:/"
    yield f"https://{host}:0x1bb/"
    yield f"https://{host}:４４３/"
    yield f"https://hooks.example:443{host}/"
    yield f"https://hooks.example&@{host}/"
    yield f"https://hooks.example;@{host}/"
    yield f"https://hooks.example,{host}/"
    yield f"https://[{host}]@hooks.example/"
    yield f"https://[hooks.example]{host}/"
    yield f"http://{host}/"
    yield f"HTTP://{host}/"
    yield f"gopher://{host}/_"
    yield f"file://{host}/etc/passwd"
    yield f"ftp://{host}/"
    yield f"ws://{host}/"
    yield f"dict://{host}:11211/stats"
    yield f"jar:https://{host}!/"
    yield f"url:https://{host}/"
    yield f"https+unix://{host}/"
