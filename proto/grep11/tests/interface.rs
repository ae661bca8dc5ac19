//! Compares the compiled `grep11.proto` with the public interface in `interface.txt`, in both
//! directions: names, numbers and types, one fact on each line.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;

use keyward_grep11::{DESCRIPTORS, cka, ckf, ckk, ckm, cko, ckr};
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const FACTS: &str = include_str!("interface.txt");

fn file() -> FileDescriptorProto {
    let mut set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    assert_eq!(set.file.len(), 1);
    set.file.remove(0)
}

fn facts(kind: &str) -> BTreeSet<&'static str> {
    FACTS.lines().filter(|line| line.split(' ').next() == Some(kind)).collect()
}

fn type_of(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let name = field.type_name().trim_start_matches('.');
    let map = message.nested_type.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|options| options.map_entry()) && name.ends_with(nested.name())
    });
    if let Some(entry) = map {
        return format!("map<{},{}>", type_of(entry, &entry.field[0]), type_of(entry, &entry.field[1]));
    }
    let plain = match field.r#type() {
        Type::Message | Type::Enum => name.to_owned(),
        Type::Uint64 => "uint64".to_owned(),
        Type::Uint32 => "uint32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Bytes => "bytes".to_owned(),
        Type::String => "string".to_owned(),
        Type::Bool => "bool".to_owned(),
        other => format!("{other:?}"),
    };
    let repeated = if field.label() == Label::Repeated { "repeated " } else { "" };
    format!("{repeated}{plain}")
}

#[test]
fn every_field_is_that_of_the_interface() {
    let file = file();
    let mut fields = BTreeSet::new();
    for message in &file.message_type {
        for field in &message.field {
            let of = format!("grep11.{} {} {}", message.name(), field.number(), type_of(message, field));
            let oneof = match field.oneof_index {
                Some(index) => format!(" in {}", message.oneof_decl[index as usize].name()),
                None => String::new(),
            };
            let legacy = format!("legacy {of}");
            let canonical = format!("field {of} {}{oneof}", field.name());
            fields.insert(if FACTS.lines().any(|line| line == legacy) { legacy } else { canonical });
        }
    }
    let compiled: BTreeSet<&str> = fields.iter().map(String::as_str).collect();
    let known = &facts("field") | &facts("legacy");
    assert_eq!(&compiled - &known, BTreeSet::new(), "in the .proto only");
    assert_eq!(&known - &compiled, BTreeSet::new(), "missing in the .proto");
    assert!(known.len() > 200, "{} facts", known.len());
    assert_eq!(file.message_type.len(), 93);
    assert_eq!((file.package(), file.syntax()), ("grep11", "proto3"));
}

#[test]
fn every_rpc_is_that_of_the_interface() {
    let file = file();
    let [service] = file.service.as_slice() else { panic!("one service") };
    assert_eq!(service.name(), "Crypto");
    let compiled: BTreeSet<String> = (service.method.iter())
        .map(|rpc| {
            assert!(!rpc.client_streaming() && !rpc.server_streaming());
            let [input, output] =
                [rpc.input_type(), rpc.output_type()].map(|name| name.trim_start_matches('.'));
            format!("rpc {} {input} {output}", rpc.name())
        })
        .collect();
    assert_eq!(compiled.iter().map(String::as_str).collect::<BTreeSet<_>>(), facts("rpc"));
    assert_eq!(compiled.len(), 40);
}

#[test]
fn every_enum_value_is_that_of_the_interface() {
    let mut compiled = BTreeSet::new();
    for message in &file().message_type {
        for of in &message.enum_type {
            for value in &of.value {
                compiled.insert(format!(
                    "value grep11.{}.{} {} {}",
                    message.name(),
                    of.name(),
                    value.name(),
                    value.number()
                ));
            }
        }
    }
    assert_eq!(compiled.iter().map(String::as_str).collect::<BTreeSet<_>>(), facts("value"));
}

#[test]
fn every_number_is_that_of_the_interface() {
    let known = facts("constant");
    let modules = [ckm::ALL, cka::ALL, ckk::ALL, cko::ALL, ckf::ALL, ckr::ALL];
    for (name, number) in modules.into_iter().flatten() {
        let fact = format!("constant {name} {number:#x}");
        assert!(known.contains(fact.as_str()), "{fact}");
    }
    assert_eq!(ckr::name(ckr::CKR_SIGNATURE_INVALID), Some("CKR_SIGNATURE_INVALID"));
    assert_eq!(ckr::name(0xdead), None);
}
