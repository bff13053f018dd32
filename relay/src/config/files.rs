//! Files that settings name: whether they are there, are what they should be, and nobody else can read what is secret. What a relay finds
//! at its start, `config check` before it, and SIGHUP before anything is changed.

use super::{ServeArgs, args::Fault};
use crate::{
    admin::{door::Door, token::AdminToken},
    identity,
    mesh::fleet_key,
    stream::certificate::{File, Files},
};

/// What is wrong with those that `args` name; a key that is made on the first start may be missing.
pub fn unusable(args: &ServeArgs) -> Vec<Fault> {
    let key = identity::load(&args.key).map(drop);
    let fleet_key = args.fleet_key.as_deref().map(fleet_key::load);
    let token = args.admin_token_file.as_deref().map(AdminToken::load);
    let mut faults = vec![
        fault("key", Some(key)),
        fault("fleet_key", fleet_key),
        fault("admin_token_file", token),
    ];
    let admin = args.admin_tls();
    let of_admin = admin.as_ref().map(|tls| &tls.files);
    for (files, [certificate, key]) in [
        (args.certificate().as_ref(), ["tls_cert", "tls_key"]),
        (of_admin, ["admin_tls_cert", "admin_tls_key"]),
    ] {
        let wrong = files.into_iter().flat_map(Files::check);
        faults.extend(wrong.map(|(file, error)| {
            let name = match file {
                File::Certificate => certificate,
                File::Key => key,
            };
            fault(name, Some(Err::<(), _>(error)))
        }));
    }
    let authorities = admin.map(|tls| Door::check_authorities(&tls));
    faults.push(fault("admin_client_ca", authorities));
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
