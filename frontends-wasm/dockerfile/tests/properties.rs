//! What is true of every input, tried with random ones that look like Dockerfiles. The fuzz
//! targets in `fuzz/` try the same for as long as one likes.

#[path = "support/paper_host.rs"]
mod host;
#[path = "support/properties.rs"]
mod properties;

use proptest::prelude::*;

/// Pieces of Dockerfiles, and of what is none.
const PIECES: &[&str] = &[
    "FROM ",
    "FROM scratch\n",
    "FROM scratch AS a\n",
    "RUN ",
    "COPY ",
    "ADD ",
    "ENV ",
    "ARG ",
    "LABEL ",
    "EXPOSE ",
    "VOLUME ",
    "WORKDIR ",
    "USER ",
    "CMD ",
    "ENTRYPOINT ",
    "SHELL ",
    "HEALTHCHECK ",
    "ONBUILD ",
    "STOPSIGNAL ",
    "MAINTAINER ",
    "--mount=",
    "type=cache,",
    "target=",
    "--from=",
    "--chmod=",
    "--platform=",
    "--",
    "<<E",
    "<<-'E'",
    "\nE\n",
    "# check=",
    "skip=all",
    "# syntax=",
    "# escape=`\n",
    "\\\n",
    "`\n",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    " ",
    "  ",
    "$",
    "${",
    "${a",
    ":-",
    ":+",
    ":?",
    "##",
    "%%",
    "//",
    "}",
    "\"",
    "'",
    "[",
    "]",
    ",",
    "=",
    "a",
    "B",
    "80/tcp",
    "/",
    ".",
    "..",
    "*",
    "**",
    "!",
    "#",
    "\u{feff}",
    "ä",
    "語",
    "\u{0}",
    "\u{2028}",
    "0777",
    "AS ",
    "a=b",
    "[\"a\", \"b\"]",
    "CMD x",
    "NONE",
    "https://h.example/x",
    "git@h.example:r.git",
];

/// One of them, or anything.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        9 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => "\\PC{0,8}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn dockerfiles(text in text()) {
        properties::dockerfile(&text);
        properties::dockerfile(&format!("FROM scratch\n{text}"));
    }

    #[test]
    fn words(text in text()) {
        properties::word(&text);
    }

    #[test]
    fn ignore_files(text in text()) {
        properties::ignore_file(&text);
    }

    #[test]
    fn here_documents(text in text()) {
        properties::here_document(&text);
    }
}
