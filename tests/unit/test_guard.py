"""The egress guard: hostile URLs when they are registered, hostile addresses when they are dialled."""

# ruff: noqa: SIM905 - fifty addresses read best as words
import ipaddress
import json
import socket

import pytest

from kasplo_notify.addresses import embedded, parse, special
from kasplo_notify.config_sections import EgressConfig
from kasplo_notify.errors import EndpointError
from kasplo_notify.guard import AddressBlocked, EgressGuard

DEFAULT = EgressGuard(EgressConfig())
LOOPBACK = EgressGuard(EgressConfig(allow=("127.0.0.0/8", "::1/128")))

NORMALISED = [
    ("https://hooks.example.com/kasplo", "https://hooks.example.com/kasplo"),
    ("HTTPS://HOOKS.Example.COM", "https://hooks.example.com/"),
    ("https://hooks.example.com:443/", "https://hooks.example.com/"),
    ("http://hooks.example.com:80/", "http://hooks.example.com/"),
    ("http://hooks.example.com:443/", "http://hooks.example.com:443/"),
    ("https://hooks.example.com:08443/", "https://hooks.example.com:8443/"),
    ("https://example.com./hook", "https://example.com/hook"),
    ("https://bücher.example.com/in", "https://xn--bcher-kva.example.com/in"),
    ("https://xn--bcher-kva.example.com/in", "https://xn--bcher-kva.example.com/in"),
    ("https://\uff45xample.com/", "https://example.com/"),
    ("https://my_host.example.com/", "https://my_host.example.com/"),
    ("https://1.example.com/", "https://1.example.com/"),
    # RFC 6761, sections 6.2 and 6.5: applications treat these two like any other name.
    ("https://a.test/", "https://a.test/"),
    ("https://a.example/", "https://a.example/"),
    ("https://93.184.215.14/hook", "https://93.184.215.14/hook"),
    ("https://[2606:2800:21F:CB07:6820:80DA:AF6B:8B2C]/h", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]/h"),
    ("https://[2606:2800:0:0::1]:8443/h", "https://[2606:2800::1]:8443/h"),
    ("https://h.example.com?a=1", "https://h.example.com/?a=1"),
    ("https://h.example.com/a?b=c&d=%20", "https://h.example.com/a?b=c&d=%20"),
    ("https://h.example.com/ü|{}", "https://h.example.com/%C3%BC%7C%7B%7D"),
    ("https://h.example.com/a@b:c", "https://h.example.com/a@b:c"),
    ("https://h.example.com/../x", "https://h.example.com/../x"),
    ("https://h.example.com//x", "https://h.example.com//x"),
]

REFUSED = """
    http://127.0.0.1:6379/ http://127.255.255.254/ http://127.0.1/ http://127.1/ http://2130706433/
    http://0177.0.0.1/ http://0x7f000001/ http://0X7F.1/ http://00000127.0.0.1/ http://0/ http://0.0.0.0:8080/
    http://127.0.0.1./ http://256.1.1.1/ http://1.2.3.4.5/ http://1.2.3/ http://1.1.1.0x1/ http://4294967295/
    http://a.0x/ http://a.99/ http://localhost/ http://LOCALHOST./ http://x.localhost/ http://localhost.localdomain/
    http://ip6-localhost/ http://127。0。0。1/ http://①②⑦.0.0.1/ http://ⓛocalhost/ http://[::1]/ http://[::]/
    http://[0:0:0:0:0:0:0:1]/ http://[::ffff:127.0.0.1]/ http://[::ffff:7f00:1]/ http://[64:ff9b::7f00:1]/
    http://[64:ff9b:1::a9fe:a9fe]/ http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/ http://[::ffff:0:127.0.0.1]/
    http://[2002:a9fe:a9fe::1]/ http://[::127.0.0.1]/ http://[fd00:ec2::254]/ http://[fe80::1%25eth0]/
    http://[fe80::1%eth0]/ http://[fe80::1]/ http://[fec0::1]/ http://[2001:db8::1]/ http://[3fff::1]/
    http://[5f00::1]/ http://[ff02::1]/ http://[2606:4700::5efe:127.0.0.1]/ http://10.0.0.1/ http://172.16.0.1/
    http://172.31.255.255/ http://192.168.0.1/ http://192.168.257/ http://0300.0250.0.1/ http://100.64.0.1/
    http://100.100.100.200/ http://169.254.169.254/ http://169.254.170.2/v2/ http://2852039166/
    http://169.16689662/ http://168.63.129.16/ http://192.0.0.192/ http://192.0.2.1/ http://198.18.0.1/
    http://198.51.100.7/ http://203.0.113.1/ http://192.88.99.1/ http://224.0.0.1/ http://240.0.0.1/
    http://255.255.255.255/ http://metadata.google.internal/ http://redis:6379/ http://redis/ http://k.default.svc/
    http://printer.local/ http://router.home.arpa/ http://x.onion/ http://x.invalid/ http://4.3.2.1.in-addr.arpa/
    http://a..example.com/ http://./ http://../ http://.example.com/ http://xn--/ http://-a.example.com/
    http://a-.example.com/ http://127.0.0.1%00.example.com/ http://%31%32%37.0.0.1/ http://[v1.x]/ http://[::1]]/
    http://[[::1]/ http://[]/ http://[1.2.3.4]/ http://[::1/ http://user:pass@h.example.com/ http://@h.example.com/
    http://user@h.example.com/ http://127.0.0.1#@example.com/ https://h.example.com/#frag https://h.example.com#
    http:///127.0.0.1/ http:127.0.0.1 http:/127.0.0.1 //127.0.0.1/ http:// https://? h.example.com
    http://h.example.com:0/ http://h.example.com:-1/ http://h.example.com:80:90/ http://h.example.com:٨٠/
    http://h.example.com:65536/ http://h.example.com:/ http://h.example.com:8o/ http://h.example.com:+80/
    http://x.alt/ http://resolver.arpa/ http://x.service.arpa/ http://ipv4only.arpa/ http://8.e.f.ip6.arpa/
    http://db.private/ http://crm.mail/ http://hooks.corp/ http://nas.lan/ http://x.intranet/ http://box.home/
    http://web.service.consul/ http://api.default.svc.cluster.local/ http://kubernetes.docker.internal/
    http://host.docker.internal/ http://instance-data/ http://instance-data.ec2.internal/ http://metadata/
    http://h.example.com:22/ http://h.example.com:25/ http://h.example.com:1/ http://h.example.com:10080/
    http://h.example.com:6379/ https://93.184.215.14:25/
    ftp://h.example.com/ file:///etc/passwd dict://127.0.0.1:6379/INFO unix:///var/run/docker.sock javascript:alert(1)
    data:text/plain,hi HTTPS+x://h.example.com/ gopher://h.example.com/ https://h.example.com/%zz https://h.example.com/%
    http://h.example.com\\@127.0.0.1/ http:\\\\h.example.com\\
""".split()

REFUSED_RAW: list[object] = [
    "",
    None,
    7,
    b"https://h.example.com/",
    " http://h.example.com/",
    "https://h.example.com/ ",
    "\thttps://h.example.com/",
    "https://h.example.com/\r\nX-Evil: 1",
    "https://h.example.com\r\nX: y/",
    "https://h.example.com/\x00",
    "https://h.example.com/\x7f",
    "https://h.example.com/\x85",
    "https://exa mple.com/",
    "http://1.1.1.1 &@2.2.2.2# @3.3.3.3/",
    "https://h.example.com/\ud800",
    "https://" + "a" * 64 + ".com/",
    "https://" + ".".join(["a" * 40] * 7) + ".com/",
    "https://h.example.com/" + "a" * 2048,
    "https://h.example.com/" + "ü" * 500,
]

BLOCKED = """
    0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 168.63.129.16
    169.254.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1 192.31.196.1 192.52.193.1
    192.88.99.1 192.168.0.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1
    239.255.255.255 240.0.0.1 255.255.255.255
    :: ::1 ::2 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
    ::ffff:0:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::808:808 64:ff9b:1:a9fe:a9:fe00:: 100::1
    2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1 2001:20::1 2001:30::1 2001:1ff::1
    2001:db8::1 2002:7f00:1:: 2002:808:808:: 2620:4f:8000::1 3ffe::1 3fff::1 4000::1 5f00::1 1fff::1
    2606:4700::5efe:7f00:1 2606:4700::200:5efe:a00:1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
    ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff localhost 0x7f000001 127.1 2130706433 010.0.0.1
""".split()

DIALLED = """
    1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 168.63.129.15 172.15.255.255
    172.32.0.1 192.0.1.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1 223.255.255.255 ::ffff:8.8.8.8
    2001:200::1 2001:4860:4860::8888 2606:4700::1111 2a00:1450:4001::1 3ffd::1 2606:4700::5efe:808:808
""".split()


@pytest.mark.parametrize(("given", "stored"), NORMALISED)
def test_a_good_url_is_stored_in_one_spelling(given: str, stored: str) -> None:
    assert DEFAULT.check_url(given) == stored
    assert DEFAULT.check_url(stored) == stored


@pytest.mark.parametrize("url", [*REFUSED, *REFUSED_RAW], ids=lambda url: ascii(url)[:50])
def test_a_bad_url_is_refused_in_one_sentence(url: object) -> None:
    with pytest.raises(EndpointError) as refused:
        DEFAULT.check_url(url)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("address", BLOCKED)
def test_a_special_address_is_never_dialled(address: str) -> None:
    with pytest.raises(AddressBlocked):
        DEFAULT.check_address(address, 443)


@pytest.mark.parametrize("address", DIALLED)
def test_a_public_address_is_dialled(address: str) -> None:
    DEFAULT.check_address(address, 443)


# IANA, IPv4 and IPv6 Special-Purpose Address Registries (2025-10-09), each block once, with multicast (RFC 5771, RFC
# 4291), deprecated site-local addresses (RFC 3879) and the former 6bone (RFC 3701), which have registries of their own.
SPECIAL_BLOCKS = """
    0.0.0.0/8 0.0.0.0/32 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.0.0/29
    192.0.0.8/32 192.0.0.9/32 192.0.0.10/32 192.0.0.170/32 192.0.0.171/32 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24
    192.88.99.0/24 192.88.99.2/32 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24
    224.0.0.0/4 240.0.0.0/4 255.255.255.255/32
    ::1/128 ::/128 64:ff9b::/96 64:ff9b:1::/48 100::/64 100:0:0:1::/64 2001::/23 2001::/32 2001:1::1/128 2001:1::2/128
    2001:1::3/128 2001:2::/48 2001:3::/32 2001:4:112::/48 2001:10::/28 2001:20::/28 2001:30::/28 2001:db8::/32
    2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8 3ffe::/16
    ::/96 ::ffff:0:0:0/96
""".split()

# Where clouds keep instance metadata, credentials and control: AWS (instances, ECS, EKS, time, DNS), Google, Azure,
# Alibaba, Oracle, Tencent, OpenStack, Scaleway.
METADATA = """
    169.254.169.254 169.254.170.2 169.254.170.23 169.254.169.123 169.254.169.253 fd00:ec2::254 fd00:ec2::23
    fd00:ec2::253 fd20:ce::254 168.63.129.16 100.100.100.200 192.0.0.192 fd00:c1::a9fe:a9fe 169.254.0.23 fe80::a9fe:a9fe
    169.254.42.42 fd00:42::42
""".split()


@pytest.mark.parametrize("block", SPECIAL_BLOCKS)
def test_every_block_of_the_registries_is_special_at_both_its_ends(block: str) -> None:
    network = ipaddress.ip_network(block)
    for end in (network.network_address, network.broadcast_address):
        assert special(end), end
        with pytest.raises(AddressBlocked):
            DEFAULT.check_address(str(end), 443)


@pytest.mark.parametrize("address", METADATA)
def test_no_address_of_a_clouds_metadata_is_dialled_not_even_behind_a_translator(address: str) -> None:
    forms = [address]
    if ":" not in address:
        first, second = (int(ipaddress.ip_address(address)) >> shift & 0xFFFF for shift in (16, 0))
        low = f"{first:x}:{second:x}"
        forms += [f"::ffff:{low}", f"64:ff9b::{low}", f"::ffff:0:{low}", f"::{low}", f"2002:{low}::1"]
        forms += [f"64:ff9b:1::{low}", f"2606:4700::5efe:{low}", f"2001:0:{low}::1"]
    for form in forms:
        with pytest.raises(AddressBlocked):
            DEFAULT.check_address(form, 80)


def test_ports_that_browsers_refuse_are_denied() -> None:
    """https://fetch.spec.whatwg.org/#port-blocking, 0 aside, which is no port."""
    browsers = """
        1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115 117 119 123
        135 137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989 990 993
        995 1719 1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667 6668 6669 6679 6697 10080
    """
    assert {int(port) for port in browsers.split()} <= set(EgressConfig().deny_ports)


def test_credentials_are_refused_with_a_hint_and_not_repeated() -> None:
    for url in (
        "https://user:hunter2@hooks.example.com/",
        "https://user:hunter2/",
        "https://user:hunter2/x@hooks.example.com/",
        "http://user:hunter2?@hooks.example.com",
        "https://user:hunter2%40hooks.example.com/",
        "https://user:hunter2\uff20hooks.example.com/",
        "https://user:123456/@hooks.example.com/",
    ):
        with pytest.raises(EndpointError, match="--basic USER:PASS") as refused:
            DEFAULT.check_url(url)
        assert "hunter2" not in str(refused.value)
        assert "123456" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://hunter2%40hooks.example.com/",
        "https://user%3Ahunter2%40hooks.example.com/",
        "https://hunter2\uff20hooks.example.com/",
        "https://user\uff1ahunter2\ufe6bhooks.example.com/",
        "https://hunter2%40127.0.0.1/",
        "https://[user:hunter2]/",
        "https://[user:hunter2]x/",
        "https://user:[hunter2]/",
    ],
)
def test_what_may_be_credentials_in_another_form_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(EndpointError) as refused:
        DEFAULT.check_url(url)
    assert "hunter2" not in str(refused.value)


def test_a_host_that_is_none_is_quoted_where_it_can_hold_no_credentials() -> None:
    with pytest.raises(EndpointError, match=r"'a_-.example.com' is not a host name"):
        DEFAULT.check_url("https://a_-.example.com/")


@pytest.mark.parametrize(
    ("url", "allow", "value"),
    [
        ("http://127.0.0.1/", (), '["127.0.0.0/8"]'),
        ("http://[::1]/", (), '["::1/128"]'),
        ("http://localhost/", (), '["127.0.0.0/8", "::1/128"]'),
        ("http://10.1.2.3/", (), '["10.1.2.3/32"]'),
        ("http://10.1.2.3/", ("10.9.0.0/16",), '["10.9.0.0/16", "10.1.2.3/32"]'),
    ],
)
def test_what_to_set_is_named_and_where(url: str, allow: tuple[str, ...], value: str) -> None:
    remedy = f"to permit it, set egress.allow = {value} (KASPLO_EGRESS__ALLOW='{value}')"
    config = EgressConfig(allow=allow)
    for guard, where in (
        (EgressGuard(config), "here and for the workers"),
        (EgressGuard(config, in_worker=True), "where `up` or `worker` runs, and start that again"),
    ):
        with pytest.raises(EndpointError) as refused:
            guard.check_url(url)
        assert str(refused.value).endswith(f"{remedy} {where}")
    assert EgressGuard(EgressConfig(allow=tuple(json.loads(value)))).check_url(url) == url


def test_a_long_list_is_not_repeated() -> None:
    allow = tuple(f"10.{number}.0.0/16" for number in range(100))
    with pytest.raises(AddressBlocked, match=r"add 192\.168\.1\.1/32 to egress\.allow here and for the workers"):
        EgressGuard(EgressConfig(allow=allow)).check_address("192.168.1.1", 443)


def test_a_worker_says_that_its_own_settings_refuse() -> None:
    guard = EgressGuard(EgressConfig(deny=("93.184.215.0/24",)), in_worker=True)
    for address in ("127.0.0.1", "93.184.215.14"):
        with pytest.raises(AddressBlocked, match="refused by the worker's egress settings: "):
            guard.check_address(address, 443)
        with pytest.raises(EndpointError, match=r"^refused by the worker's egress settings: "):
            guard.check_url(f"http://{address}/")


@pytest.mark.parametrize(
    ("address", "port", "relied"),
    [("127.0.0.1", 443, True), ("93.184.215.14", 25, True), ("93.184.215.14", 443, False), ("8.8.8.8", 443, False)],
)
def test_whether_egress_allow_was_needed_is_known(address: str, port: int, relied: bool) -> None:  # noqa: FBT001
    guard = EgressGuard(EgressConfig(allow=("127.0.0.0/8", "93.184.215.0/24")))
    guard.check_address(address, port)
    assert guard.relied_on_allow is relied


@pytest.mark.parametrize(
    ("url", "quoted"),
    [
        ("ftp://u:hunter2@h.example.com/", ", not 'ftp://'"),
        ("hunter2@h://h.example.com/", ""),
        ("h.example.com/hook", ""),
        ("user:hunter2@h.example.com", ""),
        ("hunter2@h.example.com", ""),
        ("https:user:hunter2@h.example.com", ""),
    ],
)
def test_another_scheme_is_quoted_and_no_more(url: str, quoted: str) -> None:
    with pytest.raises(EndpointError) as refused:
        DEFAULT.check_url(url)
    assert str(refused.value) == f"the URL must begin with https:// or http://{quoted}"


def test_a_port_of_another_service_is_denied_when_dialled() -> None:
    with pytest.raises(AddressBlocked, match="port 25 "):
        DEFAULT.check_address("93.184.215.14", 25)


def test_https_only() -> None:
    guard = EgressGuard(EgressConfig(https_only=True))
    assert guard.check_url("https://hooks.example.com/") == "https://hooks.example.com/"
    with pytest.raises(EndpointError, match="https_only"):
        guard.check_url("http://hooks.example.com/")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"])
def test_an_allowed_network_is_dialled_on_every_port(address: str) -> None:
    LOOPBACK.check_address(address, 8080)
    LOOPBACK.check_address(address, 6379)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:6379/",
        "http://localhost:8080/",
        "http://[::1]:8080/",
        "http://[::ffff:7f00:1]/",
        "http://x.localhost/",
    ],
)
def test_allowed_loopback_can_be_registered(url: str) -> None:
    assert LOOPBACK.check_url(url).startswith("http://")


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "0.0.0.0", "fe80::1"])  # noqa: S104
def test_an_allowed_network_opens_nothing_else(address: str) -> None:
    with pytest.raises(AddressBlocked):
        LOOPBACK.check_address(address, 80)


def test_loopback_names_need_loopback_private_names_any_allowed_network() -> None:
    private = EgressGuard(EgressConfig(allow=("172.16.0.0/12",)))
    assert private.check_url("http://receiver:8080/") == "http://receiver:8080/"
    assert private.check_url("http://crm.internal/") == "http://crm.internal/"
    for url in ("http://localhost/", "http://ip6-localhost/", "http://x.onion/"):
        with pytest.raises(EndpointError):
            private.check_url(url)


@pytest.mark.parametrize("url", ["http://intranet/", "http://metadata.google.internal/", "http://example.com:6379/"])
def test_allowing_this_machine_opens_no_other_name_and_port(url: str) -> None:
    with pytest.raises(EndpointError):
        EgressGuard(EgressConfig(allow=("127.0.0.0/8", "::1/128"))).check_url(url)
    assert EgressGuard(EgressConfig(allow=("127.0.0.0/8", "10.0.0.0/8"))).check_url(url) == url


def test_short_forms_stay_refused_even_where_loopback_is_allowed() -> None:
    for url in ("http://127.1/", "http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/"):
        with pytest.raises(EndpointError):
            LOOPBACK.check_url(url)


def test_the_narrower_of_two_networks_decides_and_deny_between_equals() -> None:
    all_but = EgressGuard(EgressConfig(allow=("10.0.0.0/8",), deny=("10.1.0.0/16",)))
    all_but.check_address("10.2.0.1", 80)
    nothing_but = EgressGuard(EgressConfig(allow=("93.184.215.0/24",), deny=("0.0.0.0/0", "::/0")))
    nothing_but.check_address("93.184.215.14", 80)
    equal = EgressGuard(EgressConfig(allow=("10.0.0.0/8",), deny=("10.0.0.0/8",)))
    for guard, address in (
        (all_but, "10.1.0.1"),
        (nothing_but, "8.8.8.8"),
        (nothing_but, "2a00::1"),
        (equal, "10.0.0.1"),
    ):
        with pytest.raises(AddressBlocked, match=r"egress\.deny"):
            guard.check_address(address, 80)


def test_a_denied_ipv4_network_is_denied_in_its_mapped_form_too() -> None:
    guard = EgressGuard(EgressConfig(deny=("93.184.215.0/24",)))
    with pytest.raises(AddressBlocked):
        guard.check_address("::ffff:93.184.215.14", 443)


def test_allowing_nat64_does_not_open_the_addresses_behind_it() -> None:
    guard = EgressGuard(EgressConfig(allow=("64:ff9b::/96", "64:ff9b:1::/48")))
    for address in ("64:ff9b::808:808", "64:ff9b:1::808:808"):
        guard.check_address(address, 443)
    for address in ("64:ff9b::a9fe:a9fe", "64:ff9b::7f00:1", "64:ff9b:1::a9fe:a9fe", "64:ff9b:1:a9fe:a9:fe00::"):
        with pytest.raises(AddressBlocked):
            guard.check_address(address, 443)


@pytest.mark.parametrize(
    ("address", "inner"),
    [
        ("64:ff9b::7f00:1", ["127.0.0.1"]),
        ("64:ff9b:1::a9fe:a9fe", ["169.254.169.254"]),
        ("64:ff9b:1:a9fe:a9:fe00::", ["169.254.169.254"]),
        ("::ffff:0:7f00:1", ["127.0.0.1"]),
        ("::7f00:1", ["127.0.0.1"]),
        ("2002:7f00:1::", ["127.0.0.1"]),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["65.54.227.120", "192.0.2.45"]),
        ("2606:4700::5efe:a00:1", ["10.0.0.1"]),
        ("2606:4700::200:5efe:a00:1", ["10.0.0.1"]),
        ("::1", []),
        ("::", []),
        ("2606:4700::1111", []),
        ("8.8.8.8", []),
    ],
)
def test_the_ipv4_address_inside_is_found(address: str, inner: list[str]) -> None:
    parsed = parse(address)
    assert parsed is not None
    assert [str(each) for each in embedded(parsed) if str(each) != "0.0.0.0"] == inner  # noqa: S104


def test_the_socket_factory_makes_a_non_blocking_socket_or_none() -> None:
    info = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 80))
    with LOOPBACK.socket_factory(info) as made:
        assert made.getblocking() is False
        assert made.family == socket.AF_INET
    with pytest.raises(AddressBlocked) as blocked:
        DEFAULT.socket_factory(info)
    assert isinstance(blocked.value, OSError)
    assert "127.0.0.1" in str(blocked.value.strerror)
