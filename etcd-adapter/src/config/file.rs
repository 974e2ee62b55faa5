//! `--config-file`: etcd's file of flags, one `name: value` a line.
//!
//! It is the part of YAML that such files are written in: scalars, quoted or not, lists in brackets or
//! with dashes, and one level of blocks, of which etcd has two for TLS. Anything else is a problem that
//! names its line; nothing is guessed.

use std::collections::BTreeMap;

/// etcd's blocks, and what their names mean as flags.
const BLOCKS: [(&str, &str); 2] = [("client-transport-security", ""), ("peer-transport-security", "peer-")];

/// Reads the text into flags and their values, or says what is wrong in which line.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, Vec<String>> {
    let mut reader = Reader::default();
    for (number, line) in text.lines().enumerate() {
        if let Err(why) = reader.line(line) {
            reader.problems.push(format!("config-file: line {}: {why}", number + 1));
        }
    }
    match reader.problems.is_empty() {
        true => Ok(reader.said),
        false => Err(reader.problems),
    }
}

#[derive(Default)]
struct Reader {
    said: BTreeMap<String, String>,
    problems: Vec<String>,
    /// The last name at the margin, if nothing stood behind it: a block, or a list with dashes.
    open: Option<String>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let line = without_comment(line);
        let text = line.trim();
        if text.is_empty() || text == "---" {
            return Ok(());
        }
        if line.starts_with('\t') {
            return Err("indent with blanks".into());
        }
        if let Some(item) = text.strip_prefix("- ") {
            let Some(name) = self.open.clone() else { return Err("an item of no list".into()) };
            let item = scalar(item)?;
            let list = self.said.entry(name).or_default();
            if !list.is_empty() {
                list.push(',');
            }
            list.push_str(&item);
            return Ok(());
        }
        let (name, value) = text.split_once(':').ok_or("write name: value")?;
        if !value.is_empty() && !value.starts_with(' ') {
            return Err("a blank is missing behind the colon".into());
        }
        let (name, value) = (scalar(name)?, value.trim());
        let full = match (line.starts_with(' '), &self.open) {
            (false, _) => {
                self.open = value.is_empty().then(|| name.clone());
                if value.is_empty() {
                    return Ok(());
                }
                name
            }
            (true, None) => return Err(format!("`{name}` is indented, and belongs to nothing")),
            (true, Some(block)) if block == "feature-gates" => {
                let gate = format!("{name}={}", scalar(value)?);
                let gates = self.said.entry(block.clone()).or_default();
                if !gates.is_empty() {
                    gates.push(',');
                }
                gates.push_str(&gate);
                return Ok(());
            }
            (true, Some(block)) => match BLOCKS.iter().find(|(known, _)| known == block) {
                Some((_, prefix)) => format!("{prefix}{name}"),
                None => return Err(format!("`{block}` has no parts")),
            },
        };
        let value = match value.strip_prefix('[') {
            Some(list) => {
                let list = list.strip_suffix(']').ok_or("a list ends where its line does, with a bracket")?;
                list.split(',').map(scalar).collect::<Result<Vec<_>, _>>()?.join(",")
            }
            None => scalar(value)?,
        };
        match self.said.insert(full.clone(), value) {
            None => Ok(()),
            Some(_) => Err(format!("`{full}` is said twice")),
        }
    }
}

/// The line up to a `#` that begins a word and is not quoted.
fn without_comment(line: &str) -> &str {
    let mut quoted = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match quoted {
            Some(quote) if c == quote => quoted = None,
            Some(_) => {}
            None if (c == '"' || c == '\'') && !before.is_alphanumeric() => quoted = Some(c),
            None if c == '#' && before == ' ' => return &line[..at],
            None => {}
        }
        before = c;
    }
    line
}

fn scalar(text: &str) -> Result<String, String> {
    let text = text.trim();
    let quoted =
        |quote: char| text.strip_prefix(quote).map(|rest| rest.strip_suffix(quote).ok_or("a quote is missing"));
    match (quoted('"'), quoted('\'')) {
        (Some(inner), _) => {
            let inner = inner?;
            if inner.contains('\\') {
                return Err("escapes are not read: use single quotes".into());
            }
            Ok(inner.to_owned())
        }
        (_, Some(inner)) => Ok(inner?.replace("''", "'")),
        (None, None) => match text.chars().next() {
            Some('{' | '&' | '*' | '|' | '>' | '!' | '%' | '@' | '`') => {
                Err(format!("`{text}` is more of YAML than is read here: quote it if it is a value"))
            }
            _ => Ok(if text == "null" || text == "~" { String::new() } else { text.to_owned() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap().into_iter().collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn etcds_own_sample_reads_as_the_flags_that_it_stands_for() {
        let text = "# This is the configuration file for the etcd server.\n\
            name: 'default'\n\
            data-dir:\n\
            listen-client-urls: http://localhost:2379,http://localhost:4001 # two\n\
            client-transport-security:\n  \
              cert-file: /etc/c.pem\n  \
              client-cert-auth: true\n\
            peer-transport-security:\n  \
              cert-file: /etc/p.pem\n\
            quota-backend-bytes: 0\n\
            log-outputs: [stderr, \"a#b\"]\n\
            cipher-suites:\n  - A\n  - B\n";
        let expected = [
            pair("cert-file", "/etc/c.pem"),
            pair("cipher-suites", "A,B"),
            pair("client-cert-auth", "true"),
            pair("listen-client-urls", "http://localhost:2379,http://localhost:4001"),
            pair("log-outputs", "stderr,a#b"),
            pair("name", "default"),
            pair("peer-cert-file", "/etc/p.pem"),
            pair("quota-backend-bytes", "0"),
        ];
        assert_eq!(said(text), expected);
    }

    #[test]
    fn what_is_not_understood_is_told_with_its_line_and_never_guessed() {
        for (text, why) in [
            ("name", "line 1: write name: value"),
            ("a: 1\nname:x", "line 2: a blank is missing"),
            ("  name: x", "line 1: `name` is indented"),
            ("name: {a: b}", "line 1: `{a: b}` is more of YAML"),
            ("name: 'a", "line 1: a quote is missing"),
            ("name: a\nname: b", "line 2: `name` is said twice"),
            ("other:\n  name: a", "line 2: `other` has no parts"),
            ("- a", "line 1: an item of no list"),
        ] {
            let problems = parse(text).unwrap_err();
            assert!(problems[0].contains(why), "{text}: {problems:?}");
        }
    }
}
