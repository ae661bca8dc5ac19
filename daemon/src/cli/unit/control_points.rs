//! `keyward unit control-points`: what clients of GREP11 may do with their keys.

use clap::Args;
use keyward_unit::Profile;
use keyward_unit::administration::Instruction;
use serde_json::json;

use super::issue::Issue;
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};
use crate::ground::exit;

#[derive(Args, Debug)]
pub(in crate::cli) struct ControlPoints {
    /// Set them: tls, strict or open
    #[arg(long, value_name = "PROFILE")]
    set: Option<Profile>,
    #[command(flatten)]
    issue: Issue,
}

impl ControlPoints {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Some(profile) = self.set else { return self.show() };
        // As long as nobody owns the unit, its command line decides.
        if let Ok(unit) = self.issue.admin().and_then(|admin| Ok(admin.unit()?))
            && unit.serves_grep11
            && !unit.owned
        {
            let why = format!(
                "cannot set the control points: nobody owns the unit, so its command line decides; start it again with: keyward unit serve --control-points {profile}"
            );
            return Err(Failure::new(exit::CANNOT_CREATE, why));
        }
        let done = self
            .issue
            .issue("cannot set the control points", |_| Ok(Instruction::SetControlPoints(profile)))?;
        self.issue.report(&done, &format!("set the control points to {profile}"))
    }

    fn show(&self) -> Result<(), Failure> {
        let attempt = "cannot show the control points";
        let failed = |failure: Failure| failure.while_trying(attempt).at(&self.issue.client.runtime_dir);
        let unit = self.issue.admin().and_then(|admin| Ok(admin.unit()?)).map_err(failed)?;
        if self.issue.client.json {
            return print_json(&json!({ "control_points": unit.control_points }));
        }
        let by = match (unit.serves_grep11, unit.owned) {
            (false, _) => "keyward serve always has these",
            (true, true) => "set by the owners of the unit, or strict until they set others",
            (true, false) => "the option --control-points of keyward unit serve; nobody owns the unit",
        };
        let mut text = format!("control points   {}\nset by           {by}\n\n", unit.control_points);
        for profile in Profile::ALL {
            text += &format!("{:8} {}\n", profile.name(), meaning(profile));
        }
        print(&text)
    }
}

/// The meaning of a profile, in a line of a terminal.
fn meaning(profile: Profile) -> &'static str {
    match profile {
        Profile::Tls => "signs and decrypts for TLS; imports keys; no key leaves",
        Profile::Strict => "every mechanism; the uses of a key are kept apart; no key leaves",
        Profile::Open => "everything; a client that has the blob of a key can get the key out",
    }
}
