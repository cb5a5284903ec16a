//! Every form of templating, in a text for people and in a file.

use crate::{imported, loaded, told};

/// The text of the node's information and of its file, if it has one, and the notes.
fn said(form: &str) -> (String, Option<String>, String) {
    let text = format!(
        "\
parameters:
  place: {{information: x, type: str, default: EU7}}
---
locationId: EU6
blueprints:
  - web:
      domain: {{name: Fox}}
      ethernet: {{name: Net, subnet: 10.1.0.0}}
      nodes:
        - one:
            appliance: Debian 12
            glue: [internet 22]
            information: [\"{form}\"]
            cloud-config:
              write_files: [{{path: /x, content: \"{form}\"}}]
        - two: {{appliance: Debian 12}}
---
locationId: EU7
blueprints:
  - web:
      domain: {{name: Fox}}
      ethernet: {{name: Net, subnet: 10.1.0.0}}
      nodes: [three: {{appliance: Debian 12, glue: [internet 22]}}]
"
    );
    let import = imported(&text);
    let plan = loaded(&import);
    let node = &plan.locations[0].networks[0].nodes[0];
    let file = node.tasks.iter().find_map(|task| match &task.work {
        fleet_plan::resolved::Work::File(file) => match &file.content {
            fleet_plan::resolved::Content::Text(text) => Some(text.0.clone()),
            _ => None,
        },
        _ => None,
    });
    (node.information.0.trim_end().to_owned(), file, told(&import))
}

#[test]
fn with_counterpart() {
    let check = |form: &str, expected: &str| {
        let (text, file, notes) = said(form);
        assert_eq!(
            (text.as_str(), file.as_deref(), notes.as_str()),
            (expected, Some(expected), ""),
            "{form}"
        );
    };
    check("{{ parameter.place }}", "EU7");
    check("{{parameter.place}}", "EU7");
    check("{{ node }}", "{{ node.private }}");
    check("{{ node.private }}", "{{ node.private }}");
    check("{{ node.ipv6 }}", "{{ node.ipv6 }}");
    check("{{ node.public }}", "{{ node.public }}");
    check("{{ node.name }}", "{{ node.name }}");
    check("{{ two }}", "{{ two.private }}");
    check("{{ two.private }}", "{{ two.private }}");
    check("{{ two.ipv6 }}", "{{ two.ipv6 }}");
    check("{{ one.public }}", "{{ one.public }}");
    check("{{ EU7::three.ipv6 }}", "{{ EU7::three.ipv6 }}");
    check("{{ EU7::three }}", "{{ EU7::three.private }}");
    check("{{ dd-eu::EU7::three.public }}", "{{ EU7::three.public }}");
    check("{{ {{ parameter.place }}::three.ipv6 }}", "{{ EU7::three.ipv6 }}");
    check("{{ location.id }}", "EU6");
    check("a {{ node.name }} b {{ two.ipv6 }} c", "a {{ node.name }} b {{ two.ipv6 }} c");
}

#[test]
fn without_counterpart() {
    let check = |form: &str, instead: &str| {
        let (text, file, notes) = said(&format!("a {{{{ {form} }}}} b"));
        assert_eq!((text.as_str(), file), (format!("a ({form}) b").as_str(), None), "{form}");
        let lines: Vec<&str> = notes.lines().collect();
        let [people, left_out] = lines.as_slice() else { panic!("{form}: {notes}") };
        assert!(
            people.starts_with(&format!("lost line 13: `{{{{ {form} }}}}` in a text for people; {instead}")),
            "{people}"
        );
        let file = format!("lost line 15: `{{{{ {form} }}}}` in file `/x`, which is left out; {instead}");
        assert!(left_out.starts_with(&file), "{left_out}");
    };
    check("two.public", "the node has no public address");
    check("parameter.nothing", "declare it");
    check("node.id", "ids of servers");
    check("node.private_host", "say it with `{{ node.private }}`");
    check("node.colour", "nothing has this name");
    check("nobody.ipv6", "nothing has this name");
    check("EU7::two.ipv6", "nothing has this name");
    check("location.country", "write the country's name");
    check("environment.HOME", "make it a parameter");
    check("shared.user", "`access` says who logs in");
    check("shared.secret", "there is no shared password");
    for form in ["credentials.name", "credentials.password", "name.credentials", "password.credentials"] {
        check(form, "credentials of the cloud");
    }
    for form in ["secret.db", "db.secret", "secret.db.md5", "db.secret.sha1", "secret.db.sha256"] {
        check(form, "secrets are not made by plans");
    }
    for form in ["uuid.disk", "disk.uuid"] {
        check(form, "write one down");
    }
    for form in
        ["rsa_private.key", "rsa_public.key", "key.rsa_private", "key.rsa_public", "rsa_private.local"]
    {
        check(form, "key pairs are not made by plans");
    }
    check("rsa_public.local", "`access: {keys: [operator]}`");
    check("https://example.org/x.sh", "download it");
    check("http://example.org/x", "download it");
    check("plumbery.version", "plumbery has no part");
    for form in ["balancer.name", "balancer.ip", "balancer.port"] {
        check(form, "fleets have no balancers");
    }
}

#[test]
fn braces_of_others_are_left_to_files() {
    let (text, file, notes) = said("a {{ not a form }} b");
    assert_eq!((text.as_str(), file), ("a (not a form) b", None));
    assert_eq!(notes.lines().count(), 2, "{notes}");
    let (text, file, notes) = said("a {{ open");
    assert_eq!((text.as_str(), file), ("a { { open", None));
    assert!(notes.contains("texts with `{{` of their own come from a file"), "{notes}");
}
