//! Output of dig(1), which asks servers of the DNS. The program is in the Debian package
//! bind9-dnsutils.

/// Path of the program.
pub const PROGRAM: &str = "/usr/bin/dig";
/// Options for an output that [`read`] takes.
pub const OPTIONS: [&str; 3] = ["+noall", "+comments", "+answer"];

/// An answer of a server.
#[derive(Debug, Eq, PartialEq)]
pub struct Answer {
    /// Such as `NOERROR` (RFC 1035, 4.1.1).
    pub status: String,
    /// Data of each record.
    pub data: Vec<String>,
}

/// Reads the output of dig; `None` if no server has answered.
pub fn read(text: &str) -> Option<Answer> {
    let status = text.split("status: ").nth(1)?.split(',').next()?.to_owned();
    let records = text.lines().filter(|line| !line.starts_with(';') && !line.trim().is_empty());
    // Owner, time to live, class and type come before the data.
    let data = records.filter_map(|line| {
        let mut rest = line;
        for _ in 0..4 {
            rest = rest.trim_start().split_once(char::is_whitespace)?.1;
        }
        Some(rest.trim().to_owned())
    });
    Some(Answer { status, data: data.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_data() {
        let text = ";; Got answer:\n;; ->>HEADER<<- opcode: QUERY, status: NOERROR, id: 1\n;; flags: qr rd\n\n\
                    ;; ANSWER SECTION:\nshop.example.\t\t60\tIN\tCAA\t0 issue \"ca.example; accounturi=https://ca.example/1\"\n\n";
        let answer = read(text).unwrap();
        let data = "0 issue \"ca.example; accounturi=https://ca.example/1\"".to_owned();
        assert_eq!(answer, Answer { status: "NOERROR".into(), data: vec![data] });
        assert_eq!(
            read(";; ->>HEADER<<- opcode: QUERY, status: SERVFAIL, id: 2\n").unwrap().status,
            "SERVFAIL"
        );
        assert!(read(";; connection timed out; no servers could be reached\n").is_none());
    }
}
