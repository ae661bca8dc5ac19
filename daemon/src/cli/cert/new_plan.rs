//! `keyward cert plan`: adds the plan of a certificate to the configuration.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use keyward_proto::{KeyType, Label};

use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::print;
use crate::config::{Challenge, Config, Issuer};
use crate::ground::exit;
use crate::serve::DEFAULT_CONFIG;

#[derive(Args, Debug)]
pub(in crate::cli) struct NewPlan {
    /// Name of the plan, and of the directory of its files
    #[arg(value_name = "PLAN")]
    name: Label,
    /// Names of the certificate: DNS names and IP addresses
    #[arg(long = "names", value_name = "NAME", num_args = 1.., required = true)]
    names: Vec<String>,
    /// Authority: letsencrypt, letsencrypt-staging, or a section [ca.NAME] of the configuration
    #[arg(long, value_name = "CA", default_value = "letsencrypt")]
    ca: String,
    /// Profile of the authority, such as shortlived
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// Label of the key [default: the name of the plan]
    #[arg(long, value_name = "LABEL")]
    key: Option<Label>,
    /// Type of the key, if there is none yet
    #[arg(long, value_name = "TYPE", default_value = "p256")]
    key_type: KeyType,
    /// Make a new version of the key at each renewal
    #[arg(long)]
    new_key: bool,
    /// Directory that a server shows: answers to http-01 go there, instead of a line of its
    /// configuration
    #[arg(long, value_name = "DIR")]
    webroot: Option<PathBuf>,
    /// Servers that use the certificate: nginx, haproxy, apache
    #[arg(long = "for", value_name = "SERVER", num_args = 1..)]
    servers: Vec<String>,
    /// Addresses where the certificate must be seen, such as 127.0.0.1:443
    #[arg(long = "listener", value_name = "ADDRESS", num_args = 1..)]
    listeners: Vec<SocketAddr>,
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    client: Client,
}

impl NewPlan {
    pub(super) fn run(self) -> Result<(), Failure> {
        let attempt = format!("cannot plan the certificate {}", self.name);
        let failed =
            |status: u8, why: &dyn core::fmt::Display| Failure::new(status, format_args!("{attempt}: {why}"));
        let before = match fs::read_to_string(&self.config) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| {
                failed(exit::NO_INPUT, &format_args!("{}: {error}", self.config.display()))
            })?,
        };
        let section = self.section();
        // A plan that no authority can carry out is refused now, not at its first renewal.
        let config = Config::parse(&(before + &section), &self.config)
            .map_err(|error| failed(exit::CONFIG, &error))?;
        let file = OpenOptions::new().create(true).append(true).open(&self.config);
        let written =
            file.and_then(|mut file| file.write_all(section.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| {
            failed(exit::CANNOT_CREATE, &format_args!("{}: {error}", self.config.display()))
        })?;
        let reloaded = AdminClient::new(&self.client.runtime_dir).and_then(|admin| admin.reload());
        let plan = config.plans.iter().find(|plan| plan.name == self.name);
        let mut text = format!("plan {} is in {}\n", self.name, self.config.display());
        if let Err(error) = reloaded {
            text += &format!("the daemon does not have it yet: {error}; then: systemctl reload keyward\n");
        }
        if let Some(Issuer::Acme { challenge: Challenge::Http, .. }) = plan.map(|plan| &plan.issuer) {
            let prepared = AdminClient::new(&self.client.runtime_dir)
                .and_then(|admin| admin.prepare(self.name.as_str()));
            let thumbprint =
                prepared.ok().and_then(|plan| plan.thumbprint).unwrap_or_else(|| "THUMBPRINT".into());
            text += &format!(
                "\nThe server of the names answers the authority at port 80. One of these lines, in its configuration:\n{}",
                answers(&thumbprint)
            );
        }
        print(&text)
    }

    /// The section of the configuration.
    fn section(&self) -> String {
        let mut text = format!(
            "\n[[certificate]]\nname = {:?}\nnames = {:?}\nca = {:?}\n",
            self.name.as_str(),
            self.names,
            self.ca
        );
        if let Some(profile) = &self.profile {
            text += &format!("profile = {profile:?}\n");
        }
        if let Some(key) = &self.key {
            text += &format!("key = {:?}\n", key.as_str());
        }
        text += &format!("key-type = \"{}\"\n", self.key_type);
        if self.new_key {
            text += "new-key = true\n";
        }
        if let Some(webroot) = &self.webroot {
            text += &format!("webroot = {webroot:?}\n");
        }
        if !self.servers.is_empty() {
            text += &format!("servers = {:?}\n", self.servers);
        }
        if !self.listeners.is_empty() {
            let listeners: Vec<_> = self.listeners.iter().map(SocketAddr::to_string).collect();
            text += &format!("listeners = {listeners:?}\n");
        }
        text
    }
}

/// Lines by which servers answer http-01 for every token: the answer is the token, a point, and the
/// thumbprint of the account key (RFC 8555, 8.1).
fn answers(thumbprint: &str) -> String {
    format!(
        r#"
nginx, in a server that listens at port 80:
    location ~ ^/\.well-known/acme-challenge/([-_A-Za-z0-9]+)$ {{ default_type text/plain; return 200 "$1.{thumbprint}"; }}
HAProxy, in a frontend that listens at port 80:
    http-request return status 200 content-type text/plain lf-string "%[path,field(-1,/)].{thumbprint}" if {{ path_beg /.well-known/acme-challenge/ }}
Apache with mod_rewrite, in a virtual host at port 80:
    <LocationMatch "^/\.well-known/acme-challenge/(?<token>[-_A-Za-z0-9]+)$">
        RewriteEngine on
        RewriteRule . - [R=200]
        ErrorDocument 200 "%{{ENV:MATCH_TOKEN}}.{thumbprint}"
    </LocationMatch>
"#
    )
}
