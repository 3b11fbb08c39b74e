//! How each kind of field is read, written and shown.
//!
//! A [`Codec`] belongs to a field, not to a Rust type: an `Option<u32>` is an index where −1
//! stands for none in one place, a mode where −1 stands for "keep" in another.
//! Which field has which codec is said in the tables of [`crate::message`].

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_types::{Digest, ParseDigestError};
use serde_json::Value as Json;

use crate::error::short;
use crate::message::Message;
use crate::wire::{Field, put_bytes, put_raw, put_varint};
use crate::{Error, Problem, limits};

/// How one kind of field is read, written and shown.
pub(crate) trait Codec {
    /// What the field holds.
    type Value;
    /// Whether JSON shows the field even when it has its default value.
    const SHOWN: bool = false;

    /// What an absent field stands for; nothing if it has to be there.
    fn absent() -> Option<Self::Value>;
    /// Whether the field is left out when it holds `value`.
    fn is_absent(value: &Self::Value) -> bool;
    /// Writes the field, whatever its value.
    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>);
    /// Reads one occurrence.
    fn read(field: &Field) -> Result<Self::Value, Error>;
    /// Adds one more occurrence to a repeated field.
    fn add(_: &mut Self::Value, _: &Field) -> Result<(), Error> {
        Err(Problem::Repeated.into())
    }
    /// The value as Go's `encoding/json` shows it.
    fn json(value: &Self::Value) -> Json;
}

/// Numbers: everything whose wire type is the varint.
pub(crate) trait Varint {
    type Value: PartialEq;
    fn absent() -> Self::Value;
    fn from_raw(raw: u64) -> Result<Self::Value, Problem>;
    fn to_raw(value: &Self::Value) -> u64;
    fn json(value: &Self::Value) -> Json {
        Json::from(Self::to_raw(value) as i64)
    }
}

impl<V: Varint> Codec for V {
    type Value = V::Value;

    fn absent() -> Option<V::Value> {
        Some(V::absent())
    }

    fn is_absent(value: &V::Value) -> bool {
        *value == V::absent()
    }

    fn put(value: &V::Value, number: u32, out: &mut Vec<u8>) {
        put_varint(out, number, V::to_raw(value));
    }

    fn read(field: &Field) -> Result<V::Value, Error> {
        Ok(V::from_raw(field.varint()?)?)
    }

    fn json(value: &V::Value) -> Json {
        V::json(value)
    }
}

/// Declares number codecs: name, type, default, from the wire, to the wire.
macro_rules! varints {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $absent:expr, $from:expr, $to:expr;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Varint for $name {
            type Value = $type;
            fn absent() -> $type {
                $absent
            }
            fn from_raw(raw: u64) -> Result<$type, Problem> {
                let from: fn(i64) -> Option<$type> = $from;
                from(raw as i64).ok_or(Problem::OutOfRange(raw as i64))
            }
            fn to_raw(value: &$type) -> u64 {
                let to: fn(&$type) -> i64 = $to;
                to(value) as u64
            }
        }
    )*};
}

varints! {
    /// Any signed number.
    Int64: i64 = 0, Some, |value| *value;
    /// A number of 32 bits; BuildKit would cut a longer one short.
    Int32: i32 = 0, |raw| raw.try_into().ok(), |value| i64::from(*value);
    /// A user id, a mode.
    Uint32: u32 = 0, |raw| raw.try_into().ok(), |value| i64::from(*value);
    /// An `int32` that has no meaning below zero.
    Mode: u32 = 0, |raw| i32::try_from(raw).ok()?.try_into().ok(), |value| i64::from(*value);
    /// A size in bytes.
    Size: u64 = 0, |raw| raw.try_into().ok(), |value| *value as i64;
    /// The number of something that has to be there.
    At: u32 = 0, |raw| raw.try_into().ok(), |value| i64::from(*value);
    /// The number of something, or −1 for nothing.
    Index: Option<u32> = Some(0), none_below, none_above;
    /// A mode, or −1 to keep the one that there is.
    KeepMode: Option<u32> = Some(0), |raw| none_below(i64::from(i32::try_from(raw).ok()?)),
        none_above;
    /// Nanoseconds since 1970, or −1 to keep the time that there is.
    KeepTime: Option<i64> = Some(0), |raw| Some((raw != -1).then_some(raw)),
        |value| value.unwrap_or(-1);
}

fn none_below(raw: i64) -> Option<Option<u32>> {
    if raw == -1 { Some(None) } else { raw.try_into().ok().map(Some) }
}

fn none_above(value: &Option<u32>) -> i64 {
    value.map_or(-1, i64::from)
}

/// A boolean.
pub(crate) struct Flag;

impl Varint for Flag {
    type Value = bool;
    fn absent() -> bool {
        false
    }
    fn from_raw(raw: u64) -> Result<bool, Problem> {
        match raw {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Problem::OutOfRange(raw as i64)),
        }
    }
    fn to_raw(value: &bool) -> u64 {
        u64::from(*value)
    }
    fn json(value: &bool) -> Json {
        Json::Bool(*value)
    }
}

/// A string.
pub(crate) struct Text;

impl Codec for Text {
    type Value = String;

    fn absent() -> Option<String> {
        Some(String::new())
    }

    fn is_absent(value: &String) -> bool {
        value.is_empty()
    }

    fn put(value: &String, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, value.as_bytes());
    }

    fn read(field: &Field) -> Result<String, Error> {
        let text = std::str::from_utf8(field.bytes()?).map_err(|_| Problem::Utf8)?;
        Ok(text.to_owned())
    }

    fn json(value: &String) -> Json {
        Json::String(value.clone())
    }
}

/// Bytes; base64 in JSON.
pub(crate) struct Blob;

impl Codec for Blob {
    type Value = Vec<u8>;

    fn absent() -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn is_absent(value: &Vec<u8>) -> bool {
        value.is_empty()
    }

    fn put(value: &Vec<u8>, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, value);
    }

    fn read(field: &Field) -> Result<Vec<u8>, Error> {
        Ok(field.bytes()?.to_vec())
    }

    fn json(value: &Vec<u8>) -> Json {
        Json::String(STANDARD.encode(value))
    }
}

/// A digest in its text form, which has to be there.
pub(crate) struct DigestText;

impl Codec for DigestText {
    type Value = Digest;

    fn absent() -> Option<Digest> {
        None
    }

    fn is_absent(_: &Digest) -> bool {
        false
    }

    fn put(value: &Digest, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, value.to_string().as_bytes());
    }

    fn read(field: &Field) -> Result<Digest, Error> {
        let digest = Text::read(field)?.parse();
        Ok(digest.map_err(|error: ParseDigestError| Problem::Digest(error.to_string()))?)
    }

    fn json(value: &Digest) -> Json {
        Json::String(value.to_string())
    }
}

/// A message inside the message, which has to be there.
pub(crate) struct Nested<M>(PhantomData<M>);

impl<M: Message> Codec for Nested<M> {
    type Value = M;

    fn absent() -> Option<M> {
        None
    }

    fn is_absent(_: &M) -> bool {
        false
    }

    fn put(value: &M, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, &value.to_bytes());
    }

    fn read(field: &Field) -> Result<M, Error> {
        M::read(field.message()?)
    }

    fn json(value: &M) -> Json {
        value.json()
    }
}

/// A type whose shape on the wire, `W`, allows more than the type does.
pub(crate) trait Check<W>: Sized {
    fn check(wire: W) -> Result<Self, Error>;
    fn wire(&self) -> W;
}

/// A message inside the message, checked while it is read.
pub(crate) struct Checked<W, T>(PhantomData<(W, T)>);

impl<W: Message, T: Check<W>> Codec for Checked<W, T> {
    type Value = T;

    fn absent() -> Option<T> {
        None
    }

    fn is_absent(_: &T) -> bool {
        false
    }

    fn put(value: &T, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, &value.wire().to_bytes());
    }

    fn read(field: &Field) -> Result<T, Error> {
        T::check(W::read(field.message()?)?)
    }

    fn json(value: &T) -> Json {
        value.wire().json()
    }
}

/// A field whose presence means something, even when it is empty.
pub(crate) struct Maybe<C>(PhantomData<C>);

impl<C: Codec> Codec for Maybe<C> {
    type Value = Option<C::Value>;

    fn absent() -> Option<Self::Value> {
        Some(None)
    }

    fn is_absent(value: &Self::Value) -> bool {
        value.is_none()
    }

    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = value {
            C::put(value, number, out);
        }
    }

    fn read(field: &Field) -> Result<Self::Value, Error> {
        C::read(field).map(Some)
    }

    fn json(value: &Self::Value) -> Json {
        value.as_ref().map_or(Json::Null, C::json)
    }
}

/// A list, one field per member.
pub(crate) struct Each<C>(PhantomData<C>);

impl<C: Codec> Codec for Each<C> {
    type Value = Vec<C::Value>;

    fn absent() -> Option<Self::Value> {
        Some(Vec::new())
    }

    fn is_absent(value: &Self::Value) -> bool {
        value.is_empty()
    }

    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>) {
        value.iter().for_each(|member| C::put(member, number, out));
    }

    fn read(field: &Field) -> Result<Self::Value, Error> {
        let mut all = Vec::new();
        Self::add(&mut all, field)?;
        Ok(all)
    }

    fn add(all: &mut Self::Value, field: &Field) -> Result<(), Error> {
        if all.len() >= limits::MAX_ITEMS {
            return Err(Problem::TooMany(limits::MAX_ITEMS).into());
        }
        let member = C::read(field).map_err(|error| error.within(&format!("[{}]", all.len())))?;
        all.push(member);
        Ok(())
    }

    fn json(value: &Self::Value) -> Json {
        value.iter().map(C::json).collect()
    }
}

/// A list of numbers in one field, as proto3 writes them; the other form is read too.
pub(crate) struct Packed<V>(PhantomData<V>);

impl<V: Varint> Codec for Packed<V> {
    type Value = Vec<V::Value>;

    fn absent() -> Option<Self::Value> {
        Some(Vec::new())
    }

    fn is_absent(value: &Self::Value) -> bool {
        value.is_empty()
    }

    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>) {
        let mut packed = Vec::new();
        value.iter().for_each(|member| put_raw(&mut packed, V::to_raw(member)));
        put_bytes(out, number, &packed);
    }

    fn read(field: &Field) -> Result<Self::Value, Error> {
        let mut all = Vec::new();
        Self::add(&mut all, field)?;
        Ok(all)
    }

    fn add(all: &mut Self::Value, field: &Field) -> Result<(), Error> {
        for raw in field.packed()? {
            if all.len() >= limits::MAX_ITEMS {
                return Err(Problem::TooMany(limits::MAX_ITEMS).into());
            }
            all.push(V::from_raw(raw)?);
        }
        Ok(())
    }

    fn json(value: &Self::Value) -> Json {
        value.iter().map(V::json).collect()
    }
}

/// A map, written in the order of its keys.
pub(crate) struct MapOf<K, C>(PhantomData<(K, C)>);

impl<K, C> Codec for MapOf<K, C>
where
    K: Codec<Value: Ord + ToString>,
    C: Codec,
{
    type Value = BTreeMap<K::Value, C::Value>;

    fn absent() -> Option<Self::Value> {
        Some(BTreeMap::new())
    }

    fn is_absent(value: &Self::Value) -> bool {
        value.is_empty()
    }

    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>) {
        for (key, member) in value {
            // Go writes both halves of an entry, defaults too.
            let mut entry = Vec::new();
            K::put(key, 1, &mut entry);
            C::put(member, 2, &mut entry);
            put_bytes(out, number, &entry);
        }
    }

    fn read(field: &Field) -> Result<Self::Value, Error> {
        let mut all = BTreeMap::new();
        Self::add(&mut all, field)?;
        Ok(all)
    }

    fn add(all: &mut Self::Value, field: &Field) -> Result<(), Error> {
        if all.len() >= limits::MAX_ITEMS {
            return Err(Problem::TooMany(limits::MAX_ITEMS).into());
        }
        let mut reader = field.message()?;
        let (mut key, mut member) = (None, None);
        while let Some(half) = reader.next()? {
            let repeated = match half.number {
                1 => key.replace(K::read(&half).map_err(|e| e.within("key"))?).is_some(),
                2 => member.replace(half).is_some(),
                other => return Err(Problem::UnknownField(other).into()),
            };
            if repeated {
                return Err(Problem::Repeated.into());
            }
        }
        let key = key.or_else(K::absent).ok_or(Problem::Missing)?;
        let name = short(&key.to_string()).to_owned();
        let member = match (member, C::absent()) {
            (Some(half), _) => C::read(&half),
            (None, Some(default)) => Ok(default),
            (None, None) => C::read(&Field::empty(2, reader.depth())),
        };
        let member = member.map_err(|error| error.within(&format!("[{name:?}]")))?;
        match all.insert(key, member) {
            Some(_) => Err(Problem::DuplicateKey(name).into()),
            None => Ok(()),
        }
    }

    fn json(value: &Self::Value) -> Json {
        let member = |(key, member): (&K::Value, &C::Value)| (key.to_string(), C::json(member));
        Json::Object(value.iter().map(member).collect())
    }
}

/// A field that JSON shows even when it has its default value.
pub(crate) struct Shown<C>(PhantomData<C>);

impl<C: Codec> Codec for Shown<C> {
    type Value = C::Value;
    const SHOWN: bool = true;

    fn absent() -> Option<Self::Value> {
        C::absent()
    }

    fn is_absent(value: &Self::Value) -> bool {
        C::is_absent(value)
    }

    fn put(value: &Self::Value, number: u32, out: &mut Vec<u8>) {
        C::put(value, number, out);
    }

    fn read(field: &Field) -> Result<Self::Value, Error> {
        C::read(field)
    }

    fn json(value: &Self::Value) -> Json {
        C::json(value)
    }
}

/// An enum of the protocol; a number that it does not define is an error.
pub(crate) trait Choice: Copy + PartialEq + Debug + 'static {
    /// All values, at the position of their number.
    const ALL: &'static [Self];
}

/// A field that holds a [`Choice`].
pub(crate) struct OneOfValues<E>(PhantomData<E>);

impl<E: Choice> Varint for OneOfValues<E> {
    type Value = E;
    fn absent() -> E {
        E::ALL[0]
    }
    fn from_raw(raw: u64) -> Result<E, Problem> {
        let known = usize::try_from(raw).ok().and_then(|index| E::ALL.get(index));
        known.copied().ok_or(Problem::UnknownValue(raw as i64))
    }
    fn to_raw(value: &E) -> u64 {
        let index = E::ALL.iter().position(|known| known == value);
        index.expect("every value of the enum is listed") as u64
    }
}
