//! The same profile in the words of the OCI runtime specification (`linux.seccomp`), for runtimes
//! that compile it themselves. They refuse with ENOSYS what is newer than the profile on their own.

use serde_json::{Value, json};

use super::profile::{Native, REFUSED, Test, Verdict, listed};

/// Returns the profile for the machine's native architecture, or `None` where there is none.
pub fn native_profile() -> Option<Value> {
    let native = Native::of_this_machine()?;
    let (column, architectures) = match native {
        Native::X86_64 => (2, vec!["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]),
        Native::Aarch64 => (5, vec!["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]),
    };
    let mut allowed = Vec::new();
    let mut rules = Vec::new();
    for columns in [&[column][..], &[3], &[6]] {
        // Calls that only the smaller architectures have are named, too.
        let foreign = columns[0] != column;
        if foreign && (columns[0] == 3) != (native == Native::X86_64) {
            continue;
        }
        for (_, name, verdict) in listed(columns) {
            match verdict {
                Verdict::Allow => allowed.push(name),
                Verdict::Errno(errno) => {
                    rules.push(json!({
                        "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
                    }));
                }
                Verdict::Argument(rule) if !foreign => {
                    for arguments in conditions(rule.index, &rule.test) {
                        rules.push(json!({
                            "names": [name], "action": "SCMP_ACT_ALLOW", "args": [arguments],
                        }));
                    }
                }
                Verdict::Argument(_) | Verdict::Kill => {}
            }
        }
    }
    allowed.sort_unstable();
    allowed.dedup();
    rules.push(json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" }));
    let Verdict::Errno(refused) = REFUSED else { return None };
    Some(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": refused,
        "architectures": architectures,
        "syscalls": rules,
    }))
}

/// What an argument may be; one of these must hold.
fn conditions(index: u8, test: &Test) -> Vec<Value> {
    match test {
        Test::OneOf(ranges) => ranges
            .iter()
            .flat_map(|&(first, last)| first..=last)
            .map(|value| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" }))
            .collect(),
        Test::NoneOf(bits) => {
            let op = "SCMP_CMP_MASKED_EQ";
            vec![json!({ "index": index, "value": bits, "valueTwo": 0, "op": op })]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_once_with_the_table_s_verdict() {
        let profile = native_profile().expect("tests run where there is a profile");
        let rules = profile["syscalls"].as_array().expect("it is a list");
        let of = |name: &str| -> Vec<&Value> {
            let named = |rule: &&Value| {
                rule["names"].as_array().is_some_and(|names| names.iter().any(|n| n == name))
            };
            rules.iter().filter(named).collect()
        };
        assert_eq!(of("read").len(), 1);
        assert!(of("mount").is_empty() && of("keyctl").is_empty() && of("bpf").is_empty());
        assert_eq!(of("clone3")[0]["errnoRet"], 38);
        assert_eq!(of("clone")[0]["args"][0]["value"], 0x7e02_0000);
        let families: Vec<u64> =
            of("socket").iter().filter_map(|rule| rule["args"][0]["value"].as_u64()).collect();
        assert!(families.contains(&2) && !families.contains(&38) && !families.contains(&40));
        assert_eq!(profile["defaultErrnoRet"], 1);
    }
}
