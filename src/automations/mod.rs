//! Automations at work: templates, and the evaluation of triggers. What fires is handed to the stream `actions`.

pub mod engine;
pub mod index;
pub mod ordering;
pub mod render;
pub mod template;
pub mod trigger;

use serde_json::{Map, Value};

use crate::model::automation::check::Above;
use crate::parameters;

/// What the model's checks of a body have to ask of this layer and of those below it.
pub const ABOVE: Above =
    Above { template: |text| template::validate(text).map_err(|error| error.message), parameters: problems_of_parameters };

/// What is wrong with a deployment's parameters, by the path of the field. As in the reference, templates are upgraded to
/// the newer form first, and what is wrong inside of lists is not told.
fn problems_of_parameters(given: &Map<String, Value>) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    look_into(given, "", &mut problems);
    problems
}

fn look_into(fields: &Map<String, Value>, prefix: &str, problems: &mut Vec<(String, String)>) {
    if fields.contains_key("__prefect_kind") {
        if let Some(problem) = parameters::problem(fields, template_problem) {
            problems.push((prefix.trim_end_matches('.').to_owned(), problem.to_string()));
        }
        return;
    }
    for (key, value) in fields {
        match value {
            Value::Object(inner) => look_into(inner, &format!("{prefix}{key}."), problems),
            Value::String(text) if template::maybe_template(text) => {
                if let Err(error) = template::validate(text) {
                    problems.push((format!("{prefix}{key}"), format!("Invalid jinja: {}", error.message)));
                }
            }
            _ => {}
        }
    }
}

fn template_problem(template: &str) -> Result<(), String> {
    template::validate(template).map_err(|error| error.message)
}
