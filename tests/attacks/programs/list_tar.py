"""Lists archives as Python's tarfile reads them: for each file named on standard input a JSON array
of [name, kind, size, link], names in hexadecimal digits, or an error as text."""

import json
import sys
import tarfile

KINDS = {
    tarfile.REGTYPE: "-",
    tarfile.AREGTYPE: "-",
    tarfile.LNKTYPE: "h",
    tarfile.SYMTYPE: "l",
    tarfile.CHRTYPE: "c",
    tarfile.BLKTYPE: "b",
    tarfile.DIRTYPE: "d",
    tarfile.FIFOTYPE: "p",
}


def digits(text):
    return text.encode("utf-8", "surrogateescape").hex()


def entries(path):
    with tarfile.open(path, "r:", errorlevel=2) as archive:
        for member in archive:
            kind = KINDS.get(member.type, "?")
            link = member.linkname if kind in "hl" else ""
            yield [digits(member.name), kind, member.size if kind == "-" else 0, digits(link)]


for line in sys.stdin:
    try:
        answer = list(entries(line.rstrip("\n")))
    except Exception as error:  # whatever it is, it is a refusal
        answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer))
