"""The eight built-ins: what may be one of them is found by a linear-time engine, and then checked for being real.

A finder reads bytes (UTF-8, one view of a text) and yields spans from left to right, and ``None`` where it has looked
at something for nothing, so that others may have a turn. ``suspicion`` gives for each
built-in a pattern that matches wherever its finder would find something, in any context, so that a text without it need
not be looked at. It is used on text with ``" "`` and ``"-"``, and on JSON with every space and dash that folds to them.
One reading of a text sets its superscripts and circled digits apart by ``folding.APART``; nothing else is told by it.

Sources: ISO/IEC 7812-1 and the networks' published issuer ranges; Luhn, US patent 2,950,048; SSN: Social Security
Administration, "SSN Randomization" (POMS RM 10201.035); North American Numbering Plan; RFC 7519; RFC 6750, 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Any, Final

import re2

from logstitch.redaction.budget import Budget
from logstitch.redaction.folding import APART

Span = tuple[int, int]
Found = Iterator[Span | None]
Finder = Callable[[bytes, Budget], Found]


def compile_re2(pattern: str, max_mem: int = 2 << 20, *, bytewise: bool = False) -> Any:
    """A pattern for bytes that are UTF-8, or for whatever bytes. ``max_mem`` bounds what its automaton may grow to.
    Raises ``re2.error``."""
    options = re2.Options()
    if bytewise:
        options.encoding = re2.Options.Encoding.LATIN1  # type: ignore[attr-defined]  # the stubs leave it out
    options.log_errors = False
    options.never_capture = True
    options.max_mem = max_mem
    return re2.compile(pattern.encode(), options)


def may_match(pattern: str) -> Callable[[bytes], bool]:
    """Whether a text has the words without which ``pattern`` matches nothing: quick, whatever the size of its program.

    Always true for a pattern that has no such words. What is needed for it is made when it is first asked.
    """

    @cache
    def words() -> re2.Filter:
        options = re2.Options()
        options.log_errors = False
        options.never_capture = True
        made = re2.Filter()
        made.Add(pattern.encode(), options)
        made.Compile()
        return made

    return lambda data: bool(words().Match(data, potential=True))


def _search(regex: Any, data: bytes, pos: int, budget: Budget) -> Any:
    """The next match. What counts is how far the engine has read: the patterns of this module end where it is seen
    that they do."""
    match = regex.search(data, pos)
    budget.count((match.end() if match else len(data)) - pos)
    return match


def _candidates(regex: Any, data: bytes, budget: Budget, check: Callable[[bytes, int], int]) -> Found:
    """Where ``check`` agrees. It gets the start of a candidate and answers where its match ends, 0 for no match."""
    pos = 0
    while (match := _search(regex, data, pos, budget)) is not None:
        start = match.start()
        if end := check(data, start):
            yield start, end
            pos = end
        else:
            yield None
            pos = start + 1


# -- cards ---------------------------------------------------------------------------------------------------------

# (first prefix, last prefix, lengths); prefixes of one row have equally many digits. Lengths are those in use: a scheme
# that allows 16 to 19 digits on paper and gives out 16 and 19 must not claim the ids of 17 and 18 digits.
_ISSUERS: Final = (
    (4, 4, (13, 16, 19)),  # Visa
    (51, 55, (16,)),  # Mastercard
    (2221, 2720, (16,)),  # Mastercard
    (34, 34, (15,)),  # American Express
    (37, 37, (15,)),
    (6011, 6011, (16, 19)),  # Discover
    (644, 659, (16, 19)),  # Discover, RuPay, Troy
    (60, 60, (16,)),  # RuPay
    (300, 305, (14, 16, 19)),  # Diners Club
    (3095, 3095, (14, 16, 19)),
    (36, 36, (14, 16, 19)),
    (38, 39, (14, 16, 19)),
    (3528, 3589, (16, 19)),  # JCB
    (1800, 1800, (15,)),
    (2131, 2131, (15,)),
    (62, 62, (16, 17, 18, 19)),  # UnionPay
    (81, 82, (16, 19)),  # UnionPay, RuPay
    (50, 50, (13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (56, 58, (13, 14, 15, 16, 17, 18, 19)),
    (63, 63, (13, 14, 15, 16, 17, 18, 19)),
    (67, 67, (13, 14, 15, 16, 17, 18, 19)),
    (2200, 2204, (16, 19)),  # Mir
    (9792, 9792, (16,)),  # Troy
    (8600, 8600, (16,)),  # Uzcard
    (9860, 9860, (16,)),  # Humo
)
_MIN_CARD: Final = 13
_MAX_CARD_CHARS: Final = 2 * 19
"""With what sets its digits apart."""
_PIECE: Final = 4096
"""Bytes of a run of digits that are looked at before others may have a turn."""
_RUN_PROGRAM: Final = 64
"""What looking at them takes, in instructions of an engine: 60 to 100 ns a byte."""


def _lengths_by_prefix() -> dict[bytes, tuple[int, ...]]:
    """From the first four digits to the lengths that a card may have, the longest first."""
    table: dict[bytes, set[int]] = {}
    for first, last, lengths in _ISSUERS:
        scale = 10 ** (4 - len(str(first)))
        for prefix in range(first * scale, (last + 1) * scale):
            table.setdefault(b"%04d" % prefix, set()).update(lengths)
    return {prefix: tuple(sorted(lengths, reverse=True)) for prefix, lengths in table.items()}


_LENGTHS: Final = _lengths_by_prefix()
_VALUE = bytes(max(0, byte - 48) for byte in range(256))
_DOUBLED = bytes(sum(divmod(2 * max(0, byte - 48), 10)) if 48 <= byte < 58 else 0 for byte in range(256))
_SEPARATORS: Final = f" {APART}-".encode()
# A whole number and its point: no letter, and no other point, stands before it.
_WHOLE = re.compile(rb"(?<![0-9A-Za-z_.\x80-\xff])[0-9]{1,20}\.\Z")
_WHOLE_CHARS: Final = 22
_DIGIT = re.compile(rb"[0-9]")
_UUID = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}(?![0-9A-Za-z])")
_UUID_CHARS: Final = 36
_HEX = re.compile(rb"(?<![0-9A-Za-z])(?:[0-9a-f]{32,128}|[0-9A-F]{32,128})(?![0-9A-Za-z])")
_SID = re.compile(rb"(?<![0-9A-Za-z])[Ss]-1-[0-9]{1,14}(?:-[0-9]{1,10}){1,15}(?![0-9])")
_SID_CHARS: Final = 192
_ORDER = re.compile(rb"[0-9]{3}-[0-9]{7}-[0-9]{7}")
_MAX_PHONE: Final = 15
"""Digits of a telephone number with its country code (ITU-T E.164)."""
_DIGEST_CHARS: Final = frozenset((32, 40, 56, 64, 96, 128))
"""Of MD5, SHA-1, SHA-224, SHA-256, SHA-384 and SHA-512 in hex."""
_RUN_END = r"[^0-9{s}{d}]|[{s}{d}](?:[^0-9]|$)"
_CARD = r"(?:[34568][{s}{d}]?[0-9]|1[{s}{d}]?8|2[{s}{d}]?[1-7]|9[{s}{d}]?[78])(?:[{s}{d}]?[0-9]){{11}}"


def luhn(digits: bytes) -> bool:
    """Whether ASCII digits end in their check digit."""
    return (sum(digits[-1::-2].translate(_VALUE)) + sum(digits[-2::-2].translate(_DOUBLED))) % 10 == 0


def find_cards(data: bytes, budget: Budget) -> Found:
    """13 to 19 digits, with at most one space or dash between two, that a real issuer could have given out.

    A card is not a part of a longer run of digits, but may have other numbers beside it (an expiry date, a line
    number) that only a space, a dash or their being superscripts sets apart. Together with such a number some of its
    groups may look like a card, too; which of them is one nobody can tell, so all are taken, a social security or
    telephone number as a whole. And a card is neither the fraction of a decimal number, which nobody groups, nor a part
    of a UUID, a digest in hex or a Windows security identifier, one in a thousand of which has a valid card in it; nor
    an order's id (3-7-7 digits), nor up to 15 digits behind a plus, which are a telephone number.
    """
    pos = 0
    while (candidate := _search(_CARD_RE2, data, pos, budget)) is not None:
        first = _DIGIT.search(data, candidate.start())
        if first is None:  # Cannot be: a candidate has digits.
            return
        start = first.start()
        # The candidate may begin inside a run whose front is no card; a run is looked at as a whole, and once.
        match = _RUN_END_RE2.search(data, start)
        end = match.start() if match else len(data)
        done = pos
        for card in _cards_in_run(data, start, end, budget):
            if card is None:
                yield None
                continue
            begin, stop = _with_whole_numbers(data, *card)
            if stop > done:
                yield max(begin, done), stop
                done = stop
        yield None
        pos = max(end, done)


def _cards_in_run(data: bytes, start: int, end: int, budget: Budget) -> Found:
    """What may be cards in a run of digits and what sets them apart; those that overlap are one span.

    A run may be as long as a text, so it is taken piece by piece: each begins some cards, and ends behind the last.
    """
    fraction = data[start - 1 : start] == b"." and _WHOLE.search(data, max(0, start - _WHOLE_CHARS), start) is not None
    from_, to = 0, 0
    for piece in range(start, end, _PIECE):
        run = data[piece : min(end, piece + _PIECE + _MAX_CARD_CHARS)]
        if len(run) > _PIECE:  # What is shorter was counted when it was found.
            budget.count(len(run), _RUN_PROGRAM)
            yield None
        digits = run.translate(None, _SEPARATORS)
        if len(digits) < _MIN_CARD:
            continue
        # Where each digit stands; which of them begin a number, and which numbers end before them.
        places = [piece + place for place, byte in enumerate(run) if byte >= 48]
        bounds = [i for i, place in enumerate(places) if i and places[i - 1] != place - 1]
        ends = {i: places[i - 1] + 1 for i in [*bounds, len(digits)]}
        for i in bounds if data[places[0] - 1 : places[0]].isdigit() else [0, *bounds]:
            first = places[i]
            if first >= piece + _PIECE:
                break
            for length in _LENGTHS.get(digits[i : i + 4], ()):
                if i + length in ends:
                    last = ends[i + length]
                    if last <= to:  # Taken already, and so is what is shorter.
                        break
                    budget.count(length)
                    yield None
                    if fraction and first == start and last - first == length:
                        continue
                    if luhn(digits[i : i + length]) and not _in_identifier(data, first, last):
                        if first >= to:
                            if to:
                                yield from_, to
                            from_ = first
                        to = last
                        break
    if to:
        yield from_, to


def _with_whole_numbers(data: bytes, first: int, last: int) -> tuple[int, int]:
    """The span with the numbers of people that it cuts into: of what would be left of one, nobody could tell that it is
    one. The front of such a number makes a longer card of a card before it, by chance, one time in ten."""
    begin, end = max(0, first - _PERSON_CHARS), last + _PERSON_CHARS
    for pattern in (_SSN_EXACT, _PHONE_EXACT):
        for number in pattern.finditer(data, begin, end):
            if number.start() < first < number.end():
                first = number.start()
            if number.start() < last < number.end():
                last = number.end()
    return first, last


def _in_identifier(data: bytes, first: int, last: int) -> bool:
    """Whether what is found lies in what names a thing, or calls a telephone."""
    found = data[first:last]
    if data[first - 1 : first] == b"+" and len(found.translate(None, _SEPARATORS)) <= _MAX_PHONE:
        return True
    if _ORDER.fullmatch(found):
        return True
    for pattern, chars in ((_UUID, _UUID_CHARS), (_SID, _SID_CHARS)):
        for match in pattern.finditer(data, max(0, first - chars), last + chars + 1):
            if match.start() <= first and last <= match.end():
                return True
    longest = max(_DIGEST_CHARS)
    for match in _HEX.finditer(data, max(0, first - longest), last + longest + 1):
        if match.start() <= first and last <= match.end():
            return len(match[0]) in _DIGEST_CHARS and not match[0].isdigit()
    return False


# -- numbers of people ---------------------------------------------------------------------------------------------

_SSN = r"[0-9]{{3}}[{d}][0-9]{{2}}[{d}][0-9]{{4}}"
_SSN_EXACT = re.compile(rb"(?<![0-9])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9])")

_PHONE = r"[2-9][0-9]{{2}}[){p}]?[{s}.{d}]?[2-9][0-9]{{2}}[{s}.{d}]?[0-9]{{4}}"
_PHONE_EXACT = re.compile(
    rb"(?<![0-9])(?:\+?1[ .-]?)?"
    rb"(?:\((?![2-9]11|[2-9]9)[2-9][0-9]{2}\)[ .-]?|(?![2-9]11|[2-9]9)[2-9][0-9]{2}[ .-]?)"
    rb"(?![2-9]11)[2-9][0-9]{2}[ .-]?[0-9]{4}(?![0-9])"
)
_FRONT = re.compile(rb"(?:\+?1[ .-]?)?\(?\Z")
_PERSON_CHARS: Final = 18
"""The longest of these numbers."""


def find_ssns(data: bytes, budget: Budget) -> Found:
    """NNN-NN-NNNN with an area but 000, 666 and 9xx, a group but 00, a serial but 0000."""

    def check(data: bytes, start: int) -> int:
        match = _SSN_EXACT.match(data, start)
        return match.end() if match else 0

    return _candidates(_SSN_RE2, data, budget, check)


def find_phones(data: bytes, budget: Budget) -> Found:
    """Ten digits of the North American Numbering Plan, the country code in front or not, in the usual spellings."""
    done = 0
    for candidate in _candidates(_PHONE_RE2, data, budget, lambda data, start: start + 1):
        if candidate is None:
            continue
        start = candidate[0]
        front = _FRONT.search(data, max(done, start - 5), start)
        match = _PHONE_EXACT.match(data, front.start() if front else start) or _PHONE_EXACT.match(data, start)
        if match and match.start() >= done:
            yield match.span()
            done = match.end()
        else:
            yield None


# -- addresses -----------------------------------------------------------------------------------------------------

# Latin, Greek and Cyrillic letters: addresses beyond ASCII (RFC 6531) as they are written between words of any script.
# What RFC 5322 allows in a local part but stands around addresses far more often (= & ? / and quotes) ends it.
_LETTERS = r"A-Za-z\x{C0}-\x{24F}\x{370}-\x{52F}\x{1E00}-\x{1FFF}"
_EMAIL = (
    rf"[{_LETTERS}0-9_+][{_LETTERS}0-9.!#$%'*+^_{{|}}~-]*@(?:[{_LETTERS}0-9](?:[{_LETTERS}0-9-]*[{_LETTERS}0-9])?\.)+"
    rf"(?:xn--[A-Za-z0-9-]+|[{_LETTERS}]{{2,}})"
)
_IPV4 = r"[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]{{1,3}}\.[0-9]"
_IPV4_EXACT = re.compile(
    rb"(?<![0-9])(?<![0-9]\.)" + rb"\.".join([rb"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]{1,2})"] * 4) + rb"(?![0-9]|\.[0-9])"
)


def find_emails(data: bytes, budget: Budget) -> Found:
    """``local@domain.tld``."""
    pos = 0
    while (match := _search(_EMAIL_RE2, data, pos, budget)) is not None:
        yield match.span()
        pos = match.end()


def find_ipv4(data: bytes, budget: Budget) -> Found:
    """Four numbers of 0 to 255 with dots between, not a part of a longer dotted number."""

    def check(data: bytes, start: int) -> int:
        match = _IPV4_EXACT.match(data, start)
        return match.end() if match else 0

    return _candidates(_IPV4_RE2, data, budget, check)


# -- secrets -------------------------------------------------------------------------------------------------------

_JWT = r"eyJ[A-Za-z0-9_{d}]+\.[A-Za-z0-9_{d}]+\."
_JWT_EXACT = r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]+){0,2}"  # five parts: encrypted

_AWS = r"A[KS]IA[A-Z0-9]{{16}}"

# What ends a token in a log line: white space, quotes, commas, brackets, and what parts a query or an escape.
_BEARER_CHARS = r"[A-Za-z0-9._~+/|:=%!#$*?@^{d}]"
# What may stand between the word and the token: white space as Unicode has it, ``:`` and ``=``, both also as a URL or a
# text in quotes spells them; quotes; and what people write before a token.
_BEARER_ESCAPE = r"%(?:20|09|0[AaDd]|3[AaDd]|22|27)|\\+(?:[tnvfr]|u00(?:20|09|0[AaDd]|3[AaDd]|85|[Aa]0))"
_BEARER_SPACE = r"[\t\n\v\f\r\x{{85}}\x{{2028}}\x{{2029}}{s}:=+]|" + _BEARER_ESCAPE
_BEARER_QUOTE = r"(?:\\*[\x22'\x60]|[\x{{2018}}\x{{2019}}\x{{201C}}-\x{{201E}}\x{{AB}}\x{{BB}}<\[])"
_BEARER_GAP = rf"(?:(?:{_BEARER_SPACE})+|{_BEARER_QUOTE}[{{s}}]?[:=](?:{_BEARER_SPACE})*)"
_BEARER_FRONT = (
    rf"(?i:bearer){_BEARER_GAP}(?:(?i:(?:access[_ ]?|api[_ ]?)?(?:token|key)){_BEARER_GAP})?{_BEARER_QUOTE}?"
)
_BEARER = _BEARER_FRONT + _BEARER_CHARS + "{{8}}"
_QUOTE_BYTES = rb"(?:\\*[\"'`]|\xe2\x80[\x98\x99\x9c-\x9e]|\xc2[\xab\xbb]|[<\[])"
_SPACE_BYTES = rb"(?:[\t-\r :=+]|\xc2\x85|\xe2\x80[\xa8\xa9]|" + _BEARER_ESCAPE.encode() + rb")"
_GAP_BYTES = rb"(?:%b+|%b ?[:=]%b*)" % (_SPACE_BYTES, _QUOTE_BYTES, _SPACE_BYTES)
_BEARER_FRONT_EXACT = re.compile(
    rb"(?i:bearer)%b(?:(?i:(?:access[_ ]?|api[_ ]?)?(?:token|key))%b)?%b?(?=[A-Za-z0-9._~+/|:=%%!#$*?@^-]{8})"
    % (_GAP_BYTES, _GAP_BYTES, _QUOTE_BYTES)
)
_FRONT_CHARS: Final = 4096
"""Behind which the token begins, or nobody looks for where it does."""
_BEARER_AGAIN = re.compile(rb"(?i:bearer)")
_WORDS = re.compile(rb"[A-Z]?[a-z]{0,15}(?:[-._/+~=][A-Z]?[a-z]{0,15})*")
_TITLE = re.compile(rb"[A-Z][a-z]+")
_VARIABLE = re.compile(rb"\$[A-Z_]+")
_PARAMETER = re.compile(rb"[A-Za-z_]+=")
_CHALLENGE = re.compile(rb"[a-z]+(?:_[a-z]+)*=(?=\\*\")")
_MIXED = re.compile(rb"[a-z][A-Z].*[a-z][A-Z]")
_HAS_SPECIAL = re.compile(rb"[|:%!#$*?@^]")
_HAS_DIGIT = re.compile(rb"[0-9]")
_MIN_MIXED: Final = 12
_MAX_WORDS: Final = 1024
"""Bytes beyond which nothing is taken for words: nobody says that much in one breath, and looking takes long."""
# Where it is the value of a header, and nothing else: what stands before the word, and what behind the token.
_OPENED = re.compile(rb"(?:\A|[\"'`:=>{(\[\n]|\\n)[ \t]*\Z")
_CLOSED = re.compile(rb"[ \t]*(?:\Z|[\"'`,;)}\]<>&\r\n\\]|\xe2\x80[\x98-\x9f]|\xc2\xbb)")
_HEADER = re.compile(rb"(?i:authorization|x-[a-z-]{1,32}token)(?:\\*[\"'`])?(?:[ \t:=>]|%20|%3[Aa])+(?:\\*[\"'`])?\Z")
_HEADER_CHARS: Final = 64
# What is said of bearers and of tokens.
_SAID = frozenset(
    b"access auth authenticate authenticated authentication authenticator authorisation authorised "
    b"authorization authorize authorized based bearer bond bonds cert certificate certificates challenge "
    b"challenges check checks cheque cheques client cookie credential credentials custom debenture debentures "
    b"denied deposit depositary disabled document documents empty enabled error errors example expired failed "
    b"flow forbidden format grant handler header headers holding holdings instrument instruments invalid "
    b"invalidated issued issuer key keys malformed method methods middleware missing negotiable none not null "
    b"oauth of optional or passport prefix protocol provider realm redacted refresh rejected required revoked "
    b"scheme schemes scope secret securities security server session share shares strategy string support "
    b"supported ticket tickets token tokens type types unauthorized undefined unknown unset unsupported usage "
    b"user valid validation value verification warrant warrants your".split()
)
_PARTS = re.compile(rb"[-._/+~=]+")
_SAYS_TOKEN = re.compile(rb"(?i:token|key)")

# A prefix and enough of what follows it to suspect a key; and the exact forms, each bounded in length so that one that
# is refused costs little. The rest of a longer key is taken by _KEY_REST.
_KEY = (
    r"(?:[srp]k_(?:live|test)_|gh[oprsu]_|github_pat_|xox[a-eoprs][{d}]|xapp[{d}]|AIza|GOCSPX[{d}]"
    r"|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)[{d}]|npm_|pypi[{d}]|SG\.|[mp]k_|whsec_|do[opr]_v1_"
    r"|shp(?:at|ca|pa|ss)_|hf_|sq0[a-z]{{3}}[{d}]|xkeysib[{d}]|dckr_[op]at_|glsa_|glc_|gsk_|rubygems_"
    r"|sntry[su]_|lin_(?:api|oauth)_|AT[AC]TT3|EAAA|xai[{d}]|r8_|pplx[{d}]|ntn_|figd_|NRAK[{d}]|PMAK[{d}]|sbp_|HRKU[{d}]"
    r"|pul[{d}]|AGE[{d}]SECRET[{d}]KEY[{d}])[A-Za-z0-9_+/{d}]{{10}}"
    r"|ya29\.[A-Za-z0-9_.{d}]{{10}}|hv[bs]\.[A-Za-z0-9_{d}]{{10}}"
    r"|(?:SK|key[{d}]|dapi)[0-9a-f]{{10}}|{b}sk[{d}][A-Za-z0-9_{d}]{{10}}"
)
_KEY_EXACT = re.compile(
    rb"[srp]k_(?:live|test)_[0-9A-Za-z]{10,200}"  # Stripe
    rb"|gh[oprsu]_[0-9A-Za-z]{20,255}|github_pat_[0-9A-Za-z_]{20,255}"  # GitHub
    rb"|xox[a-eoprs]-[0-9A-Za-z-]{10,255}|xapp-[0-9]-[0-9A-Za-z-]{10,255}"  # Slack
    rb"|AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{20,64}"  # Google
    rb"|ya29\.(?=[0-9A-Za-z_.-]{20})[0-9A-Za-z_-]{1,512}(?:\.[0-9A-Za-z_-]{1,512}){0,4}"
    rb"|(?<![0-9A-Za-z])sk-(?=[A-Za-z_-]{0,60}[0-9])(?:[0-9a-z]{2,12}-){0,3}[0-9A-Za-z_]{16,255}"  # OpenAI, Anthropic
    # Most of their bodies are base64url, dashes and all: with a capital letter, as no hyphenated name in lower case.
    rb"|(?<![0-9A-Za-z])sk-(?:proj|svcacct|admin|None|ant-[0-9a-z]{2,12})-(?=[0-9a-z_-]{0,60}[A-Z])[0-9A-Za-z_-]{20,255}"
    rb"|(?<![0-9A-Za-z])sk-(?=[0-9A-Za-z_-]{0,60}?[0-9a-z][A-Z])[0-9A-Za-z_-]{32,255}"
    rb"|gl(?:pat|dt|rt|cbt|ptt|ft|imt|agent|oas|soat)-[0-9A-Za-z_-]{20,400}"  # GitLab
    rb"(?:\.[0-9A-Za-z]{2}\.[0-9A-Za-z]{9}|\.[0-9A-Za-z]{9}(?![0-9A-Za-z]))?"
    rb"|npm_[0-9A-Za-z]{36}|pypi-[0-9A-Za-z_-]{50,255}"
    rb"|SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{16,64}"  # SendGrid
    rb"|(?<![0-9A-Za-z])SK[0-9a-f]{32}(?![0-9A-Za-z])"  # Twilio
    rb"|[mp]k_[0-9A-Za-z]{40}"  # LogStitch
    rb"|whsec_[0-9A-Za-z+/]{20,200}={0,2}"  # Stripe, Svix, Standard Webhooks
    rb"|do[opr]_v1_[0-9a-f]{64}"  # DigitalOcean
    rb"|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"  # Shopify
    rb"|(?<![0-9A-Za-z])hf_[0-9A-Za-z]{30,64}"  # Hugging Face
    rb"|(?<![0-9A-Za-z])key-[0-9a-f]{32}(?![0-9A-Za-z])"  # Mailgun
    rb"|sq0[a-z]{3}-[0-9A-Za-z_-]{22,64}"  # Square
    rb"|(?<![0-9A-Za-z_+/-])EAAA[0-9A-Za-z_-]{60}(?![0-9A-Za-z_+/=-])"  # Square: only whole, as base64 is full of EAAA
    rb"|lin_(?:api|oauth)_[0-9A-Za-z]{32,64}"  # Linear
    rb"|AT[AC]TT3[0-9A-Za-z_-]{24,400}(?:=[0-9A-Fa-f]{8})?"  # Atlassian
    rb"|xkeysib-[0-9a-f]{64}(?:-[0-9A-Za-z]{16})?"  # Brevo
    rb"|(?<![0-9A-Za-z])dapi[0-9a-f]{32}"  # Databricks
    rb"|(?<![0-9A-Za-z])hv[bs]\.[0-9A-Za-z_-]{20,300}"  # Vault
    rb"|dckr_[op]at_[0-9A-Za-z_-]{20,64}"  # Docker
    rb"|glsa_[0-9A-Za-z]{32}_[0-9A-Fa-f]{8}"  # Grafana
    rb"|(?<![0-9A-Za-z])gsk_[0-9A-Za-z]{40,64}"  # Groq
    rb"|rubygems_[0-9a-f]{48}"  # RubyGems
    rb"|sntrys_[0-9A-Za-z+/=_]{24,400}|sntryu_[0-9a-f]{64}"  # Sentry
    rb"|glc_[0-9A-Za-z+/]{32,400}={0,2}"  # Grafana Cloud
    rb"|(?<![0-9A-Za-z])(?:xai-[0-9A-Za-z]{40,120}|pplx-[0-9A-Za-z]{40,64})"  # xAI, Perplexity
    rb"|(?<![0-9A-Za-z])r8_[0-9A-Za-z]{37}"  # Replicate
    rb"|(?<![0-9A-Za-z])(?:ntn_[0-9A-Za-z]{40,64}|figd_[0-9A-Za-z_-]{40,64})"  # Notion, Figma
    rb"|NRAK-[0-9A-Z]{27}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}"  # New Relic, Postman
    rb"|(?<![0-9A-Za-z])(?:sbp|pul)[_-][0-9a-f]{40}(?![0-9A-Za-z])"  # Supabase, Pulumi
    rb"|HRKU-[0-9A-Za-z_-]{36,64}"  # Heroku
    rb"|AGE-SECRET-KEY-1[0-9A-Z]{58}"  # age
)
_KEY_REST = re.compile(rb"[0-9A-Za-z_-]*")


def find_jwts(data: bytes, budget: Budget) -> Found:
    """Three base64url parts (five, where it is encrypted), the first of which begins an object."""
    if b"eyJ" not in data:  # A tenth of the cost of asking the engine.
        return
    pos = 0
    while (match := _search(_JWT_RE2, data, pos, budget)) is not None:
        yield match.span()
        pos = match.end()


def find_aws_keys(data: bytes, budget: Budget) -> Found:
    """The 20 characters of an access key id, long-term or temporary."""
    if b"AKIA" not in data and b"ASIA" not in data:
        return iter(())
    return _candidates(_AWS_RE2, data, budget, lambda _, start: start + 20)


def find_tokens(data: bytes, budget: Budget) -> Found:
    """``Bearer`` and a token, whole; and keys that are known by their prefix. Prose about bearers is none.

    What follows the word is a token where it has a digit, a sign that no word has, or capitals amid its letters; where
    it is 12 characters or more that are no words; and, whatever its letters, where it stands as in a header: after
    ``Authorization:``, or behind a ``Bearer`` in that spelling alone between quotes, or as the whole text. There, too,
    are words that are said of bearers left, and a single word with a capital letter as in a title.
    """
    spans = []
    for span in chain(_bearers(data, budget), _candidates(_KEY_RE2, data, budget, _key_end)):
        if span is not None:
            spans.append(span)
        yield None
    spans.sort()
    done = 0
    for start, end in spans:
        if start >= done:
            yield start, end
            done = end
        elif end > done:
            yield done, end
            done = end


def _bearers(data: bytes, budget: Budget) -> Found:
    pos = done = 0
    while (match := _search(_BEARER_RE2, data, pos, budget)) is not None:
        start, end = match.span()
        # What looks like a token may be the word once more, with its token behind it.
        again = _BEARER_AGAIN.search(data, start + 6, end)
        pos = again.start() if again else end
        front = _BEARER_FRONT_EXACT.match(data, start, min(end, start + _FRONT_CHARS))
        first = front.end() if front else start if end - start > _FRONT_CHARS else end
        if end > done and first < end and _is_token(data, start, first, end):
            yield max(start, done), end
            done = end
        else:
            yield None


def _is_token(data: bytes, start: int, first: int, end: int) -> bool:
    text = data[first:end]
    if len(text) > _MAX_WORDS or _HAS_DIGIT.search(text):
        return True
    words = text.rstrip(b"._~+/-=:?!")
    if _VARIABLE.fullmatch(words) or ((match := _CHALLENGE.match(data, first)) and match.end() == end):
        return False
    if _HAS_SPECIAL.search(words) or (_MIXED.search(words) and not _PARAMETER.match(words)):
        return True
    if data[first - 1 : first] in (b"<", b"[") or all(part in _SAID for part in _PARTS.split(words.lower())):
        return False
    if len(words) >= _MIN_MIXED and not _WORDS.fullmatch(words):
        return True
    if _PARAMETER.match(words):
        return False
    if _HEADER.search(data, max(0, start - _HEADER_CHARS), start):
        return True
    if data[start : start + 1] != b"B" or _SAYS_TOKEN.search(data, start + 6, first):
        return False
    if data[start : start + 6] == b"BEARER" and words.isupper():
        return False
    if _TITLE.fullmatch(words):
        return False
    return _OPENED.search(data, max(0, start - 8), start) is not None and _CLOSED.match(data, end) is not None


def _key_end(data: bytes, start: int) -> int:
    match = _KEY_EXACT.match(data, start)
    if match is None:
        return 0
    rest = _KEY_REST.match(data, match.end())
    return rest.end() if rest else match.end()


# -- the table -----------------------------------------------------------------------------------------------------

_SUSPICIONS: Final[Mapping[str, str]] = {
    "jwt": _JWT,
    "bearer_token": f"{_BEARER}|{_KEY}",
    "aws_key": _AWS,
    "credit_card": _CARD,
    "ssn": _SSN,
    "email": "@",
    "phone": _PHONE,
    "ipv4": _IPV4,
}


_NO_DIGIT = r"(?:^|[^0-9])"
_NO_WORD = r"(?:^|[^0-9A-Za-z]|\\[bfnrt])"  # what may stand before a word, also as an escape of JSON


_BEFORE_PUNCTUATION: Final[Mapping[str, str]] = {"jwt": "eyJ", "bearer_token": r"(?:(?i:bearer)|ya29)"}
"""What a match that has such punctuation in it, or at its end, begins with."""


def suspicion(slug: str, spaces: str = " ", dashes: str = "-", punctuation: str = "") -> str:
    """RE2 syntax. ``spaces``, ``dashes`` and ``punctuation`` are put into character classes, a plain ``-`` at the end
    of ``dashes``. ``punctuation`` are characters that folding makes punctuation of, but for a single ``.`` and for any
    ``@``, ``+``, ``-``, ``/`` or ``_``.

    No match goes beyond the text, or the event, that caused it, save that one may begin with the character before.
    """
    pattern = _SUSPICIONS[slug].format(s=spaces, d=dashes, b=_NO_WORD, p=punctuation)
    if punctuation and slug in _BEFORE_PUNCTUATION:
        pattern += rf"|{_BEFORE_PUNCTUATION[slug]}[^\x00]*[{punctuation}]"
    # In folded text, a digit before a card may be a superscript that sets it apart; in JSON, that is seen as it is.
    return _NO_DIGIT + pattern if slug == "credit_card" and spaces != " " else pattern


_JWT_RE2 = compile_re2(_JWT_EXACT)
_AWS_RE2 = compile_re2(suspicion("aws_key"))
_BEARER_RE2 = compile_re2((_BEARER_FRONT + _BEARER_CHARS).format(s=" ", d="-") + "{8,}")
_KEY_RE2 = compile_re2(_KEY.format(d="-", b=""))
_CARD_RE2 = compile_re2(_NO_DIGIT + _CARD.format(s=f" {APART}", d="-"))
_RUN_END_RE2 = compile_re2(_RUN_END.format(s=f" {APART}", d="-"), bytewise=True)
_SSN_RE2 = compile_re2(suspicion("ssn"))
_EMAIL_RE2 = compile_re2(_EMAIL)
_PHONE_RE2 = compile_re2(suspicion("phone"))
_IPV4_RE2 = compile_re2(suspicion("ipv4"))

FINDERS: Final[Mapping[str, Finder]] = {
    "jwt": find_jwts,
    "bearer_token": find_tokens,
    "aws_key": find_aws_keys,
    "credit_card": find_cards,
    "ssn": find_ssns,
    "email": find_emails,
    "phone": find_phones,
    "ipv4": find_ipv4,
}
