//! Emulators that the machine's own binfmt_misc starts for everybody, as Docker's and others'
//! set-ups register them. They are only read here: what is registered for steps is in `binfmt`.

use std::fs;
use std::path::Path;

use super::architecture::{Architecture, HEADER};

/// A handler of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    /// Its name in binfmt_misc.
    pub name: String,
    /// The program that it starts, by the path that it had when it was registered.
    pub interpreter: String,
}

/// The handler for an architecture that works in any root: one whose program was opened when it
/// was registered (flag `F`). `directory` is where binfmt_misc is mounted.
pub fn find(directory: &Path, architecture: &Architecture) -> Option<Handler> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !matches!(name.as_str(), "register" | "status"))
        .collect();
    names.sort();
    let matches = |name: String| {
        let text = fs::read_to_string(directory.join(&name)).ok()?;
        let interpreter = parse(&text, architecture)?;
        Some(Handler { name, interpreter })
    };
    names.into_iter().find_map(matches)
}

/// Reads a handler as the kernel shows it (`bm_entry_read` of `fs/binfmt_misc.c`); gives its
/// program if it is for the architecture.
fn parse(text: &str, architecture: &Architecture) -> Option<String> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim).unwrap_or_default()
    };
    if text.lines().next() != Some("enabled") || !value("flags:").contains('F') {
        return None;
    }
    let (own, _) = architecture.magic();
    let bytes = |text: &str| hex(text).filter(|bytes| !bytes.is_empty());
    let magic = bytes(value("magic "))?;
    let mask = bytes(value("mask ")).unwrap_or_else(|| vec![0xff; magic.len()]);
    let offset: usize = value("offset ").parse().ok()?;
    let at = |position: usize| own.get(position.checked_add(offset)?);
    let covers_machine = offset == 0 && magic.len() >= HEADER;
    let matches =
        magic.iter().zip(&mask).enumerate().all(|(position, (byte, mask))| {
            at(position).is_some_and(|own| own & mask == byte & mask)
        });
    let interpreter = value("interpreter ");
    (covers_machine && matches && !interpreter.is_empty()).then(|| interpreter.to_owned())
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKERS: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: POCF\noffset 0\n\
                           magic 7f454c460201010000000000000000000200b700\n\
                           mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn a_handler_that_works_everywhere_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let found = |name: &str| {
            let architecture = Architecture::named(name).expect("it is known");
            find(dir.path(), architecture).map(|handler| (handler.name, handler.interpreter))
        };
        let write = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("written");
        };
        assert_eq!(found("arm64"), None);
        write("status", "enabled\n");
        write("register", "");
        write("jar", "enabled\ninterpreter /usr/bin/jexec\nflags: F\noffset 0\nmagic 504b0304\n");
        write("py", "enabled\ninterpreter /usr/bin/python3\nflags: F\nextension .py\n");
        assert_eq!(found("arm64"), None);
        write("qemu-aarch64", &DOCKERS.replace("POCF", "OC"));
        assert_eq!(found("arm64"), None, "its program is looked for in the step's root");
        write("qemu-aarch64", &DOCKERS.replace("enabled", "disabled"));
        assert_eq!(found("arm64"), None);
        write("qemu-aarch64", DOCKERS);
        let expected = ("qemu-aarch64".to_owned(), "/usr/bin/qemu-aarch64".to_owned());
        assert_eq!(found("arm64"), Some(expected));
        assert_eq!(found("riscv64"), None);
        assert_eq!(find(Path::new("/nonexistent"), &super::super::ARCHITECTURES[2]), None);
    }
}
