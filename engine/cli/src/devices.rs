//! The devices of the machine that steps can ask for by name, for `cofferdam platforms`.

use cofferdam_build::{CdiProblem, Device};
use serde_json::{Value, json};

/// The devices that a step can ask for; nothing where none is described.
pub fn describe(devices: &[Device], problems: &[CdiProblem]) -> String {
    let mut text = String::new();
    if !devices.is_empty() {
        let width = devices.iter().map(|one| one.name.len()).max().unwrap_or(0);
        text += &format!("\n{:width$}  DESCRIBED IN\n", "DEVICE");
        for Device { name, file, auto_allowed, unusable, .. } in devices {
            let allowed = if *auto_allowed { ", needs no entitlement" } else { "" };
            let unusable = unusable.as_ref().map(|why| format!(", cannot be had: {why}"));
            let unusable = unusable.unwrap_or_default();
            text += &format!("{name:width$}  {}{allowed}{unusable}\n", file.display());
        }
    }
    if !problems.is_empty() {
        text += "\nDescriptions of devices that cannot be read:\n";
    }
    problems.iter().fold(text, |text, problem| text + &format!("{problem}\n"))
}

pub fn to_json(device: &Device) -> Value {
    let Device { name, file, annotations, auto_allowed, unusable } = device;
    json!({
        "name": name, "file": file, "annotations": annotations, "auto-allowed": auto_allowed,
        "unusable": unusable,
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_device_has_a_line() {
        let one = |name: &str, auto_allowed, unusable: Option<&str>| Device {
            name: name.into(),
            file: "/etc/cdi/vendor.yaml".into(),
            annotations: std::collections::BTreeMap::new(),
            auto_allowed,
            unusable: unusable.map(str::to_owned),
        };
        let devices = [
            one("vendor.com/class=all", true, None),
            one("vendor.com/class=0", false, Some("`/dev/gpu0`: No such file or directory")),
        ];
        let problem = CdiProblem { path: "/etc/cdi/x.json".into(), why: "kind: `x`: no".into() };
        expect![[r#"

            DEVICE                DESCRIBED IN
            vendor.com/class=all  /etc/cdi/vendor.yaml, needs no entitlement
            vendor.com/class=0    /etc/cdi/vendor.yaml, cannot be had: `/dev/gpu0`: No such file or directory

            Descriptions of devices that cannot be read:
            /etc/cdi/x.json: kind: `x`: no
        "#]]
        .assert_eq(&describe(&devices, &[problem]));
        assert_eq!(describe(&[], &[]), "");
        expect![[r#"{"annotations":{},"auto-allowed":true,"file":"/etc/cdi/vendor.yaml","name":"vendor.com/class=all","unusable":null}"#]]
            .assert_eq(&to_json(&devices[0]).to_string());
    }
}
