"""Which IP addresses are ordinary hosts of the public Internet, and which IPv4 address hides in an IPv6 one.

IPv4: everything is public but the special-purpose blocks. IPv6: nothing is public but 2000::/3 without its
special-purpose blocks. `ipaddress.is_global` is neither: it calls 64:ff9b::7f00:1 (127.0.0.1 through NAT64),
168.63.129.16 (Azure's host agent) and multicast global.
Source: the IANA special-purpose address registries, RFC 6890 and updates, the metadata services of clouds.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL_V4: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(block), what)
    for block, what in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "Azure's host agent"),
        ("169.254.0.0/16", "link-local, where cloud metadata is"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.31.196.0/24", "AS112"),
        ("192.52.193.0/24", "AMT relays"),
        ("192.88.99.0/24", "6to4 relays"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "AS112"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_PUBLIC_V6 = IPv6Network("2000::/3")
_SPECIAL_V6: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(block), what)
    for block, what in (
        # Inside 2000::/3: what has to be taken out of it.
        ("2001::/23", "protocol assignments, Teredo among them"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("2620:4f:8000::/48", "AS112"),
        ("3ffe::/16", "the former 6bone"),
        ("3fff::/20", "documentation"),
        # Outside: refused anyway, named so that the message can say what they are.
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "NAT64"),
        ("100::/64", "discard-only"),
        ("100:0:0:1::/64", "a dummy prefix"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)


def parse(text: str) -> Address | None:
    """The address that `text` writes, without its zone; an IPv4-mapped one as the IPv4 address it dials."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or IPv6Address(int(address))
    return address


def special(address: Address) -> str:
    """What the address is reserved for; empty when it is an ordinary public one."""
    if isinstance(address, IPv4Address):
        return next((what for block, what in _SPECIAL_V4 if address in block), "")
    for block, what in _SPECIAL_V6:
        if address in block:
            return what
    return "" if address in _PUBLIC_V6 else "not a public IPv6 address"


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a translator or tunnel may send packets for `address` to.

    A mapped address is not here: `parse` has made it the IPv4 address that it is. Forms: NAT64 (RFC 6052, RFC
    8215), IPv4-translated (RFC 7915), IPv4-compatible and ISATAP (RFC 4291, RFC 5214), 6to4 (RFC 3056) and
    Teredo (RFC 4380: server, and the client's address inverted).
    """
    if isinstance(address, IPv4Address):
        return ()
    bits = int(address)
    low = IPv4Address(bits & 0xFFFF_FFFF)
    top16, top32, top96 = bits >> 112, bits >> 96, bits >> 32
    if top96 in (0x0064_FF9B << 64, 0xFFFF << 16):
        return (low,)
    if top96 == 0:
        return (low,) if bits > 1 else ()
    if bits >> 80 == 0x0064_FF9B_0001:
        # The prefix in use is not known: 96 bits (the address at the end) or 48 (around bits 64 to 71).
        around = (bits >> 64 & 0xFFFF) << 16 | (bits >> 40 & 0xFFFF)
        return tuple(IPv4Address(each) for each in (bits & 0xFFFF_FFFF, around) if each)
    if top16 == 0x2002:
        return (IPv4Address(bits >> 80 & 0xFFFF_FFFF),)
    if top32 == 0x2001_0000:
        return (IPv4Address(bits >> 64 & 0xFFFF_FFFF), IPv4Address(~bits & 0xFFFF_FFFF))
    # The universal/local bit of an ISATAP interface identifier may be set or not.
    if (bits >> 32 & 0xFDFF_FFFF) == 0x0000_5EFE:
        return (low,)
    return ()
