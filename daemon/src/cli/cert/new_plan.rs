//! `keyward cert plan`: adds the plan of a certificate to the configuration.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use keyward_proto::{KeyType, Label};
use nix::unistd::User;
use toml::Value;

use crate::admin::client::AdminClient;
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::config::{Challenge, Config, Issuer, Plan, Server};
use crate::ground::exit;
use crate::policy::roles::Role;
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
    /// [default: letsencrypt]
    #[arg(long, value_name = "CA", conflicts_with = "issue")]
    ca: Option<String>,
    /// Program that issues instead of an authority, with its arguments (write a plan with arguments
    /// that begin with a dash into the configuration): it gets the certificate
    /// request on standard input, and writes the chain to standard output
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    issue: Vec<String>,
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
    /// Validate by dns-01 with this program, with its arguments: it is run with `present NAME
    /// VALUE` and `cleanup NAME VALUE`
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    dns_hook: Vec<String>,
    /// Validate by dns-01 with updates of the zone at this server (RFC 2136), such as 192.0.2.53:53
    #[arg(long, value_name = "ADDRESS", requires = "dns_key")]
    dns_server: Option<SocketAddr>,
    /// File with the key for these updates, in the form of nsupdate -k
    #[arg(long, value_name = "FILE", requires = "dns_server")]
    dns_key: Option<PathBuf>,
    /// Servers that use the certificate: nginx, haproxy, apache
    #[arg(long = "for", value_name = "SERVER", num_args = 1..)]
    servers: Vec<String>,
    /// Addresses where the certificate must be seen, such as 127.0.0.1:443
    #[arg(long = "listener", value_name = "ADDRESS", num_args = 1..)]
    listeners: Vec<SocketAddr>,
    /// Program that keyward-deploy runs as root after the files have changed, with its arguments
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    hook: Vec<String>,
    /// Program that keyward-acme runs when the state of the plan changes, with its arguments
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    notify: Vec<String>,
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
        let mut section = self.section();
        // A plan that no authority can carry out is refused now, not at its first renewal.
        let parse = |section: &str| {
            let whole = format!("{before}{section}");
            Config::parse_with_drop_ins(&whole, &self.config).map_err(|error| failed(exit::CONFIG, &error))
        };
        let config = parse(&section)?;
        let mut text = String::new();
        let agent = User::from_name(AGENT).ok().flatten();
        if !config.roles.iter().any(|given| given.role == Role::Agent) {
            match agent {
                Some(_) => {
                    section = format!("\n[[role]]\nrole = \"agent\"\nuser = \"{AGENT}\"\n{section}");
                    text += &format!("the user {AGENT} has the role agent now\n");
                }
                None => {
                    text += &format!(
                        "there is no user {AGENT}, so nobody renews the certificate yet: docs/certificates.md says how to install the agent, which needs the role agent\n"
                    );
                }
            }
        }
        let config = parse(&section).map(|_| config)?;
        let file = OpenOptions::new().create(true).append(true).open(&self.config);
        let written =
            file.and_then(|mut file| file.write_all(section.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| {
            failed(exit::CANNOT_CREATE, &format_args!("{}: {error}", self.config.display()))
        })?;
        let reloaded = AdminClient::new(&self.client.runtime_dir).and_then(|admin| admin.reload());
        text = format!("plan {} is in {}\n{text}", self.name, self.config.display());
        if let Err(error) = reloaded {
            text += &format!("the daemon does not have it yet: {error}; then: systemctl reload keyward\n");
        }
        let prepared =
            AdminClient::new(&self.client.runtime_dir).and_then(|admin| admin.prepare(self.name.as_str()));
        if let Err(error) = &prepared {
            text += &format!("the keys are not made yet: {error}\n");
        }
        if self.client.json {
            let plan = prepared.map_err(|error| Failure::from(error).while_trying(&attempt))?;
            return print_json(&plan);
        }
        let thumbprint = prepared.ok().and_then(|plan| plan.thumbprint);
        if let Some(plan) = config.plans.iter().find(|plan| plan.name == self.name) {
            if let Issuer::Acme { authority, .. } = &plan.issuer {
                text +=
                    &format!("the account at {authority} agrees to the terms of service of the authority\n");
            }
            text += &for_servers(plan, thumbprint.as_deref());
        }
        print(&text)
    }

    /// The section of the configuration.
    fn section(&self) -> String {
        let mut lines = vec![("name", Value::from(self.name.as_str())), ("names", list(&self.names))];
        match self.issue.is_empty() {
            true => lines.push(("ca", self.ca.as_deref().unwrap_or("letsencrypt").into())),
            false => lines.push(("issue", list(&self.issue))),
        }
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let texts = [
            ("profile", self.profile.clone()),
            ("key", self.key.as_ref().map(Label::to_string)),
            ("key-type", Some(self.key_type.to_string())),
            ("webroot", text(&self.webroot)),
            ("dns-server", self.dns_server.map(|at| at.to_string())),
            ("dns-key", text(&self.dns_key)),
        ];
        lines.extend(texts.into_iter().filter_map(|(name, text)| Some((name, Value::from(text?)))));
        if self.dns_server.is_some() || !self.dns_hook.is_empty() {
            lines.push(("challenge", "dns-01".into()));
        }
        if self.new_key {
            lines.push(("new-key", true.into()));
        }
        let listeners: Vec<_> = self.listeners.iter().map(SocketAddr::to_string).collect();
        let lists = [
            ("dns-hook", &self.dns_hook),
            ("servers", &self.servers),
            ("listeners", &listeners),
            ("hook", &self.hook),
            ("notify", &self.notify),
        ];
        lines.extend(
            lists.into_iter().filter(|(_, all)| !all.is_empty()).map(|(name, all)| (name, list(all))),
        );
        let lines: String = lines.into_iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        format!("\n[[certificate]]\n{lines}")
    }
}

fn list(texts: &[String]) -> Value {
    Value::from(texts.to_vec())
}

/// Lines for the configuration of servers.
fn for_servers(plan: &Plan, thumbprint: Option<&str>) -> String {
    let mut text = String::new();
    let all = [Server::Nginx, Server::Haproxy, Server::Apache];
    if let Issuer::Acme { challenge: Challenge::Http, .. } = &plan.issuer {
        let thumbprint = thumbprint.unwrap_or("THUMBPRINT");
        text += "\nThe server at port 80 of the names answers the authority. Add to its configuration:\n";
        let shown = if plan.servers.is_empty() { &all[..] } else { &plan.servers[..] };
        for server in shown {
            text += &answer(*server, thumbprint);
        }
    }
    if !plan.servers.is_empty() {
        text += "\nThe certificate is in these files. Name them in the configuration of the server:\n";
        for server in &plan.servers {
            text += &files(*server, plan.name.as_str());
        }
        if plan.listeners.is_empty() {
            text +=
                "\nThe plan names no listeners, so nobody looks whether the server shows the certificate.\n";
        }
    }
    text
}

/// The line by which a server answers http-01 for every token: the answer is the token, a point,
/// and the thumbprint of the account key (RFC 8555, 8.1).
pub(super) fn answer(server: Server, thumbprint: &str) -> String {
    match server {
        Server::Nginx => format!(
            r#"nginx, in its server:
    location ~ ^/\.well-known/acme-challenge/([-_A-Za-z0-9]+)$ {{ default_type text/plain; return 200 "$1.{thumbprint}"; }}
"#
        ),
        Server::Haproxy => format!(
            r#"HAProxy, in its frontend, before other http-request lines:
    http-request return status 200 content-type text/plain lf-string "%[path,field(-1,/)].{thumbprint}" if {{ path_beg /.well-known/acme-challenge/ }}
"#
        ),
        Server::Apache => format!(
            r#"Apache, in its virtual host; needs the module rewrite:
    RewriteEngine on
    RewriteRule ^/\.well-known/acme-challenge/([-_A-Za-z0-9]+)$ - [R=200,L,E=TOKEN:$1]
    <Location /.well-known/acme-challenge/>
        ErrorDocument 200 "%{{ENV:TOKEN}}.{thumbprint}"
    </Location>
"#
        ),
    }
}

/// The lines by which a server takes the files of a plan.
fn files(server: Server, plan: &str) -> String {
    let live = format!("/etc/keyward/live/{plan}");
    match server {
        Server::Nginx => format!(
            "nginx:\n    ssl_protocols TLSv1.2 TLSv1.3;\n    ssl_certificate {live}/fullchain.pem;\n    ssl_certificate_key {live}/key.pem;\n"
        ),
        Server::Haproxy => format!("HAProxy, in its line bind:\n    ssl crt {live}/combined.pem\n"),
        Server::Apache => format!(
            "Apache:\n    SSLCertificateFile {live}/fullchain.pem\n    SSLCertificateKeyFile {live}/key.pem\n"
        ),
    }
}

/// User of the agent, as its unit has it.
const AGENT: &str = "keyward-acme";
