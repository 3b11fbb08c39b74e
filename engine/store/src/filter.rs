//! Filters for lists of what is stored, in containerd's syntax: `field`, `field==value`,
//! `field!=value`, `field~=regular-expression`, several joined by commas.

use std::str::FromStr;

use regex_lite::Regex;

use crate::Usage;

/// Conditions that all must hold.
#[derive(Clone, Debug)]
pub struct Filter(Vec<Condition>);

#[derive(Clone, Debug)]
struct Condition {
    field: Field,
    test: Test,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Id,
    Kind,
    Description,
    InUse,
    Shared,
    Image,
}

/// Their names, as BuildKit has them; `image` is ours.
const FIELDS: [(&str, Field); 6] = [
    ("id", Field::Id),
    ("type", Field::Kind),
    ("description", Field::Description),
    ("inuse", Field::InUse),
    ("shared", Field::Shared),
    ("image", Field::Image),
];

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let condition = |text: &str| {
            let wrong = |what: String| format!("filter `{text}`: {what}");
            let (name, test) = if let Some((name, value)) = text.split_once("~=") {
                let regex = Regex::new(value).map_err(|error| wrong(error.to_string()))?;
                (name, Test::Matches(regex))
            } else if let Some((name, value)) = text.split_once("!=") {
                (name, Test::NotEqual(value.to_owned()))
            } else if let Some((name, value)) = text.split_once("==").or(text.split_once('=')) {
                (name, Test::Equal(value.to_owned()))
            } else {
                (text, Test::Present)
            };
            let known = FIELDS.iter().find(|(known, _)| *known == name.trim());
            let (_, field) = known.ok_or_else(|| {
                let names: Vec<_> = FIELDS.iter().map(|(name, _)| format!("`{name}`")).collect();
                wrong(format!("unknown field `{name}`, expected one of {}", names.join(", ")))
            })?;
            Ok(Condition { field: *field, test })
        };
        text.split(',').map(condition).collect::<Result<_, String>>().map(Self)
    }
}

impl Filter {
    /// Whether all conditions hold.
    pub fn matches(&self, usage: &Usage) -> bool {
        self.0.iter().all(|condition| {
            let values: Vec<String> = match condition.field {
                Field::Id => vec![usage.id.clone()],
                Field::Kind => vec![usage.kind.clone()],
                Field::Description => vec![usage.description.clone()],
                Field::InUse => vec![usage.in_use().to_string()],
                Field::Shared => vec![(usage.shared > 1).to_string()],
                Field::Image => usage.images.clone(),
            };
            match &condition.test {
                Test::Present => values.iter().any(|value| !value.is_empty() && value != "false"),
                Test::Equal(wanted) => values.contains(wanted),
                Test::NotEqual(other) => !values.contains(other),
                Test::Matches(regex) => values.iter().any(|value| regex.is_match(value)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions() {
        let usage = Usage {
            id: "layer 7".into(),
            kind: "regular".into(),
            description: "RUN make".into(),
            held_by: vec![1],
            ..Usage::default()
        };
        for (text, expected) in [
            ("type==regular", true),
            ("type=regular", true),
            ("type!=regular", false),
            ("type==regular,id==layer 8", false),
            ("description~=^RUN", true),
            ("description~=x$", false),
            ("inuse", true),
            ("inuse==false", false),
            ("shared", false),
            ("image", false),
        ] {
            let filter: Filter = text.parse().expect("valid");
            assert_eq!(filter.matches(&usage), expected, "{text}");
        }
        let error = "size==3".parse::<Filter>().expect_err("there is no such field");
        assert!(error.starts_with("filter `size==3`: unknown field `size`, expected"), "{error}");
        assert!("id~=(".parse::<Filter>().is_err());
    }
}
