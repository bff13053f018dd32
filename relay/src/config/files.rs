//! Files that settings name: whether they are there, are what they should be, and nobody else can read what is secret. What a relay finds
//! at its start, `config check` before it, and SIGHUP before anything is changed.

use super::{ServeArgs, args::Fault};
use crate::{
    admin::{door::Door, token::AdminToken},
    identity,
    mesh::fleet_key,
    stream::certificate::Certificate,
};

/// What is wrong with those that `args` name; a key that is made on the first start may be missing.
pub fn unusable(args: &ServeArgs) -> Vec<Fault> {
    let key = identity::load(&args.key).map(drop);
    let fleet_key = args.fleet_key.as_deref().map(fleet_key::load);
    let token = args.admin_token_file.as_deref().map(AdminToken::load);
    let certificate = args.certificate().map(Certificate::from_files);
    let admin = args.admin_tls().map(|tls| Door::check(&tls));
    let faults = [
        fault("key", Some(key)),
        fault("fleet_key", fleet_key),
        fault("admin_token_file", token),
        fault("tls_cert", certificate),
        fault("admin_tls_cert", admin),
    ];
    faults.into_iter().flatten().collect()
}

fn fault<T, E>(key: &'static str, loaded: Option<Result<T, E>>) -> Option<Fault>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let why = anyhow::Error::new(loaded?.err()?);
    Some(Fault {
        key,
        what: format!("cannot be used: {why:#}"),
        needs: None,
    })
}
