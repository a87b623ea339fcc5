//! `jam-operator plan`: the objects that a manifest would become, without a cluster.

use std::io::Read as _;

use super::args::PlanArgs;

/// The objects as YAML documents. No secret can be in them: tokens are made in the cluster, the DSN stays in its Secret.
pub fn plan(args: &PlanArgs) -> Result<String, String> {
    let place = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(&args.file)
    };
    let text = text.map_err(|error| format!("{place}: {error}"))?;
    let objects = jam_plan::render::render(&text, &args.image.defaults(&args.rollout))
        .map_err(|error| format!("{place}: {error}"))?;
    Ok(jam_plan::render::to_yaml(&objects))
}
