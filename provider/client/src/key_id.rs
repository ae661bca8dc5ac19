use keyward_proto::{Fingerprint, Label, Reference};

/// Identity of the key that a request is for.
///
/// An identity made from a [`Reference`] includes the public key. An identity made from a [`Label`]
/// alone stands for the current version with any public key.
///
/// ```
/// use keyward_client::{KeyId, Label};
///
/// let label: Label = "shop".parse()?;
/// assert_eq!(KeyId::from(&label), KeyId::new(&label, 0));
/// # Ok::<(), keyward_client::InvalidLabel>(())
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyId<'a> {
    /// Label of the key.
    pub label: &'a Label,
    /// Version of the key, from 1; 0 is the current version.
    pub version: u32,
    /// Fingerprint of the public key that the version must have. Without a fingerprint, any key
    /// with this label is accepted.
    pub public_key: Option<Fingerprint>,
}

impl<'a> KeyId<'a> {
    /// A version of the key with this label. Version 0 is the current version.
    pub fn new(label: &'a Label, version: u32) -> Self {
        Self { label, version, public_key: None }
    }
}

impl<'a> From<&'a Label> for KeyId<'a> {
    fn from(label: &'a Label) -> Self {
        Self::new(label, 0)
    }
}

impl<'a> From<&'a Reference> for KeyId<'a> {
    fn from(reference: &'a Reference) -> Self {
        let public_key = Some(reference.fingerprint());
        Self { public_key, ..Self::new(reference.label(), reference.version()) }
    }
}
