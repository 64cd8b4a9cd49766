"""Made the golden logs, once, with the first release; a later schema adds files and keeps these."""

from __future__ import annotations

import msgspec
from log_samples import ASSETS, Candidate, config, final, header, trial

from autotune.log.lines import checksum, encode_line
from autotune.log.record import Record
from autotune.trial import FailureKind

TIME = "2026-01-02T03:04:05.000006Z"


def main() -> None:
    head = header("20260102T030405Z-0badcafe")
    records: list[Record] = [
        msgspec.structs.replace(
            trial(0, number=3, head=head, batch=0, asked=2, ask=1, tell=0, elapsed=0.75),
            costs=(1.5e-3, 1.25e-3),
            phases={"build": 0.5, "run": 0.25},
            time=TIME,
        ),
        msgspec.structs.replace(
            trial(
                1,
                None,
                failure=FailureKind.CRASHED,
                head=head,
                batch=0,
                asked=2,
                ask=0,
                tell=1,
                source="another-run/000007",
            ),
            time=TIME,
        ),
        msgspec.structs.replace(
            final(2, 1.25e-3, 3, trials=2, head=head),
            candidates=(
                Candidate(label="tuned", config=config(3), costs=(1.25e-3,), verdict="fastest"),
                Candidate(label="torch", costs=(1.0e-3,)),
            ),
            time=TIME,
        ),
    ]
    lines = [encode_line(record) for record in records]
    (ASSETS / "v1.jsonl").write_bytes(b"".join(lines))
    future = b'{"kind":"trial","outcome":{"median":0.001},"v":99,"where":["a","b"]}'
    signed = future[:-1] + b',"sum":"' + checksum(future).encode() + b'"}\n'
    unsigned = b'{"v":99,"kind":"header","crc32":"0x1234"}\n'
    (ASSETS / "v99.jsonl").write_bytes(unsigned + lines[0] + signed)


if __name__ == "__main__":
    main()
