//! Names of devices: `vendor.com/class=name`. The grammar is that of the specification
//! (container-device-interface, SPEC.md, "Kind" and "CDI Devices").

/// The longest kind or name that is taken.
const LONGEST: usize = 253;

/// A kind of device, and which of them: what follows the `=`, if anything does.
pub fn split(name: &str) -> (&str, Option<&str>) {
    match name.split_once('=') {
        None | Some((_, "")) => (name.trim_end_matches('='), None),
        Some((kind, name)) => (kind, Some(name)),
    }
}

/// Says what is wrong with a kind, `vendor/class`.
pub fn check_kind(kind: &str) -> Result<(), &'static str> {
    const EXPECTED: &str = "expected `vendor/class`, each of letters, digits, `_`, `-` and `.`, \
                            beginning with a letter and ending with a letter or a digit";
    let (vendor, class) = kind.split_once('/').ok_or(EXPECTED)?;
    let good = |part: &str| {
        part.len() <= LONGEST
            && part.starts_with(|first: char| first.is_ascii_alphabetic())
            && part.ends_with(|last: char| last.is_ascii_alphanumeric())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
    };
    if good(vendor) && good(class) { Ok(()) } else { Err(EXPECTED) }
}

/// Says what is wrong with the name of a device.
pub fn check_device(name: &str) -> Result<(), &'static str> {
    let good = name.len() <= LONGEST
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.ends_with(|last: char| last.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
    match good {
        true => Ok(()),
        false => Err("expected letters, digits, `_`, `-`, `.` and `:`, beginning and ending \
                      with a letter or a digit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        for good in ["vendor.com/class", "v/c", "Vendor-1/a_b.c9"] {
            assert_eq!(check_kind(good), Ok(()), "{good}");
        }
        for bad in [
            "", "/", "vendor", "/class", "vendor/", "1v/c", "v/1", "v/c/d", "v./c", "v/c-",
            "v/../c", "v /c", "v/c\0", "vé/c",
        ] {
            assert!(check_kind(bad).is_err(), "{bad:?}");
        }
        for good in ["0", "gpu0", "GPU-4cf8db2d:0", "all", "1.2_3"] {
            assert_eq!(check_device(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a/b", "a b", "a=b", "*", ".."] {
            assert!(check_device(bad).is_err(), "{bad:?}");
        }
        assert_eq!(split("v/c"), ("v/c", None));
        assert_eq!(split("v/c="), ("v/c", None));
        assert_eq!(split("v/c=a"), ("v/c", Some("a")));
    }
}
