// /openapi.json for people.

const make = (tag, text, ...inside) => {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...inside);
  return made;
};
const api = await (await fetch("/openapi.json")).json();
const resolved = (schema) => (schema?.$ref ? api.components.schemas[schema.$ref.split("/").pop()] : schema);

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items) || "anything"}`;
  const bounds = [["minimum", "≥"], ["maximum", "≤"], ["exclusiveMaximum", "<"], ["maxLength", "length ≤"]];
  const said = bounds.filter(([name]) => name in schema).map(([name, sign]) => `${sign} ${schema[name]}`);
  return [schema.const === undefined ? schema.type ?? "anything" : JSON.stringify(schema.const), ...said].join(" ");
}

function table(properties, required = []) {
  const rows = Object.entries(properties).map(([name, schema]) => {
    const standard = schema.default === undefined ? (required.includes(name) ? "required" : "") : JSON.stringify(schema.default);
    return make("tr", "", make("td", "", make("code", name)), make("td", kind(schema)), make("td", standard), make("td", schema.description));
  });
  const head = make("tr", "", make("th", "field"), make("th", "is"), make("th", "default"), make("th", ""));
  return make("table", "", make("thead", "", head), make("tbody", "", ...rows));
}

document.getElementById("about").textContent = api.info.description;
for (const [path, methods] of Object.entries(api.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const part = make("section", "", make("h2", `${method.toUpperCase()} ${path}`), make("p", route.description));
    if (route.parameters) {
      const given = Object.fromEntries(
        route.parameters.map((one) => [one.name, { ...one.schema, description: one.description }]),
      );
      part.append(table(given, route.parameters.filter((one) => one.required).map((one) => one.name)));
    }
    const body = resolved(route.requestBody?.content["application/json"].schema);
    if (body?.properties) part.append(table(body.properties, body.required));
    document.getElementById("routes").append(part);
  }
}
