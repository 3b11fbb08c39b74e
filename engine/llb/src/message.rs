//! Messages: tables of fields, from which reading, writing and showing follow.
//!
//! [`message!`] declares a struct and its table, [`one_of!`] an enum of alternatives and its
//! table, [`choice!`] an enum of numbers. Fields are written in the order of the table, the
//! alternatives last, because that is what Go's protobuf library does; digests depend on it.

use serde_json::{Map, Value as Json};

use crate::wire::{Field, Reader};
use crate::{Error, Problem};

/// A protobuf message.
pub(crate) trait Message: Sized {
    /// Appends the fields.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads all fields.
    fn read(reader: Reader) -> Result<Self, Error>;
    /// The message as Go's `encoding/json` shows it.
    fn json(&self) -> Json;

    /// The encoded message.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }
}

/// A group of alternatives in a message (`oneof`).
pub(crate) trait OneOf: Sized {
    /// The alternatives; differs from `Self` where there may be none.
    type Choice;
    /// The name under which JSON shows the group.
    const JSON: &'static str;
    /// Takes the field if it belongs to the group, and says so.
    fn take(slot: &mut Option<Self::Choice>, field: &Field) -> Result<bool, Error>;
    /// Makes the value of what was taken.
    fn finish(slot: Option<Self::Choice>) -> Result<Self, Error>;
    /// Appends the field of the alternative.
    fn put(&self, out: &mut Vec<u8>);
    /// Adds the alternative to the group's JSON object.
    fn json(&self, group: &mut Map<String, Json>);
}

impl<T: OneOf<Choice = T>> OneOf for Option<T> {
    type Choice = T;
    const JSON: &'static str = T::JSON;

    fn take(slot: &mut Option<T>, field: &Field) -> Result<bool, Error> {
        T::take(slot, field)
    }

    fn finish(slot: Option<T>) -> Result<Self, Error> {
        Ok(slot)
    }

    fn put(&self, out: &mut Vec<u8>) {
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn json(&self, group: &mut Map<String, Json>) {
        if let Some(value) = self {
            value.json(group);
        }
    }
}

/// What happens to fields that a message's table does not list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// An error: ignoring it could mean doing less or more than was asked for.
    Refuse,
    /// Ignored: hints and names for people.
    Skip,
}

impl Unknown {
    pub(crate) fn meet(self, field: &Field) -> Result<(), Error> {
        match self {
            Self::Refuse => Err(Problem::UnknownField(field.number).into()),
            Self::Skip => Ok(()),
        }
    }
}

/// Declares a struct and its table: `field: Type = number => Codec, "json name";`, with a group
/// of alternatives, if it has one, in a block `oneof` after the fields.
macro_rules! message {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident, $unknown:ident {
            $(
                $(#[$field_meta:meta])*
                $field_vis:vis $field:ident: $type:ty = $number:literal => $codec:ty, $json:literal;
            )*
        }
        $(oneof {
            $(#[$group_meta:meta])*
            $group_vis:vis $group:ident: $group_type:ty
        })?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
            $($(#[$group_meta])* $group_vis $group: $group_type,)?
        }

        $crate::message::table! {
            $name, $unknown {
                $($field = $number => $codec, $json;)*
            }
            $(oneof $group: $group_type)?
        }
    };
}

/// Declares the table of a struct that exists already.
macro_rules! table {
    (
        $name:ty, $unknown:ident {
            $($field:ident = $number:literal => $codec:ty, $json:literal;)*
        }
        $(oneof $group:ident: $group_type:ty)?
    ) => {
        impl $crate::message::Message for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(
                    if !<$codec as $crate::codec::Codec>::is_absent(&self.$field) {
                        <$codec as $crate::codec::Codec>::put(&self.$field, $number, out);
                    }
                )*
                $(<$group_type as $crate::message::OneOf>::put(&self.$group, out);)?
            }

            fn read(mut reader: $crate::wire::Reader) -> Result<Self, $crate::Error> {
                $(let mut $field = None;)*
                $(let mut $group = None;)?
                while let Some(field) = reader.next()? {
                    match field.number {
                        $($number => $crate::message::take::<$codec>(&mut $field, &field)
                            .map_err(|error| error.within($json))?,)*
                        _ => {
                            $(if <$group_type as $crate::message::OneOf>::take(
                                &mut $group, &field,
                            )? {
                                continue;
                            })?
                            $crate::message::Unknown::$unknown.meet(&field)?;
                        }
                    }
                }
                Ok(Self {
                    $($field: $crate::message::finish::<$codec>($field)
                        .map_err(|error| error.within($json))?,)*
                    $($group: <$group_type as $crate::message::OneOf>::finish($group)?,)?
                })
            }

            fn json(&self) -> serde_json::Value {
                let mut object = serde_json::Map::new();
                $(
                    if <$codec as $crate::codec::Codec>::SHOWN
                        || !<$codec as $crate::codec::Codec>::is_absent(&self.$field)
                    {
                        let value = <$codec as $crate::codec::Codec>::json(&self.$field);
                        object.insert($json.to_owned(), value);
                    }
                )*
                $({
                    let mut group = serde_json::Map::new();
                    <$group_type as $crate::message::OneOf>::json(&self.$group, &mut group);
                    let name = <$group_type as $crate::message::OneOf>::JSON.to_owned();
                    object.insert(name, serde_json::Value::Object(group));
                })?
                serde_json::Value::Object(object)
            }
        }
    };
}

/// Declares an enum of alternatives: `Variant(Type) = number => Codec, "json name";`.
macro_rules! one_of {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident, $group:literal {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident($type:ty) = $number:literal => $codec:ty, $json:literal;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$variant_meta])* $variant($type),)*
        }

        impl $crate::message::OneOf for $name {
            type Choice = Self;
            const JSON: &'static str = $group;

            fn take(
                slot: &mut Option<Self>,
                field: &$crate::wire::Field,
            ) -> Result<bool, $crate::Error> {
                let value = match field.number {
                    $($number => <$codec as $crate::codec::Codec>::read(field)
                        .map(Self::$variant)
                        .map_err(|error| error.within($json))?,)*
                    _ => return Ok(false),
                };
                match slot.replace(value) {
                    None => Ok(true),
                    Some(_) => Err($crate::Problem::Repeated.into()),
                }
            }

            fn finish(slot: Option<Self>) -> Result<Self, $crate::Error> {
                slot.ok_or($crate::Problem::Missing)
                    .map_err(|problem| $crate::Error::from(problem).within($group))
            }

            fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$variant(value) =>
                        <$codec as $crate::codec::Codec>::put(value, $number, out),)*
                }
            }

            fn json(&self, group: &mut serde_json::Map<String, serde_json::Value>) {
                match self {
                    $(Self::$variant(value) => {
                        if !<$codec as $crate::codec::Codec>::is_absent(value) {
                            let json = <$codec as $crate::codec::Codec>::json(value);
                            group.insert($json.to_owned(), json);
                        }
                    })*
                }
            }
        }
    };
}

/// Declares an enum whose variants have the numbers 0, 1, 2, … on the wire.
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $(#[$first_meta:meta])* $first:ident,
            $($(#[$variant_meta:meta])* $variant:ident,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        $vis enum $name {
            $(#[$first_meta])*
            #[default]
            $first,
            $($(#[$variant_meta])* $variant,)*
        }

        impl $crate::codec::Choice for $name {
            const ALL: &'static [Self] = &[Self::$first, $(Self::$variant,)*];
        }
    };
}

pub(crate) use {choice, message, one_of, table};

/// Puts one occurrence of a field into its slot.
pub(crate) fn take<C: crate::codec::Codec>(
    slot: &mut Option<C::Value>,
    field: &Field,
) -> Result<(), Error> {
    match slot {
        None => *slot = Some(C::read(field)?),
        Some(value) => C::add(value, field)?,
    }
    Ok(())
}

/// Makes a field's value of its slot.
pub(crate) fn finish<C: crate::codec::Codec>(slot: Option<C::Value>) -> Result<C::Value, Error> {
    slot.or_else(C::absent).ok_or(Problem::Missing.into())
}
