//! The reference page of a command-line program, written from its own definition.

use std::fmt::Write as _;

use clap::{Command, Id};

/// Every command with its help, as `--help` prints it. `program` is what users type, `generator` the command that writes the page
/// to `docs/`, under the name of its own program.
pub fn markdown(command: Command, program: &str, generator: &str) -> String {
    let file = generator.split(' ').next().unwrap_or(program);
    let mut page = format!(
        "# {program}\n\nThis page is what `--help` says of every command. It is generated: `{generator} > docs/{file}.md`.\n\
         The flags of `{program}` itself hold for every command and are not repeated.\n",
    );
    let mut command = command.term_width(100);
    command.build();
    // The environment of whoever generates the page must not show in it.
    let mut command = command.mut_args(|arg| arg.hide_env_values(true));
    let everywhere: Vec<Id> =
        command.get_arguments().filter(|arg| arg.is_global_set()).map(|arg| arg.get_id().clone()).collect();
    describe(&mut command, program, &everywhere, &mut page);
    page
}

/// A command and those below it; without the flags that hold everywhere, which the first one shows.
fn describe(command: &mut Command, path: &str, everywhere: &[Id], page: &mut String) {
    let help = command.render_long_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let _ = write!(page, "\n## {path}\n\n```text\n{}\n```\n", help.trim_end());
    let names: Vec<String> = command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
        .map(|sub| sub.get_name().to_owned())
        .collect();
    for name in names {
        if let Some(sub) = command.find_subcommand_mut(&name) {
            let mut sub = sub.clone().term_width(100).mut_args(|arg| {
                // One that is hidden stays so.
                if everywhere.contains(arg.get_id()) { arg.hide(true) } else { arg }
            });
            describe(&mut sub, &format!("{path} {name}"), everywhere, page);
        }
    }
}
