// The form: what the model offers, what is asked for, and parameters of a picture put back into it.

const $ = (name) => document.getElementById(name);
const KEPT = ["prompt", "negative_prompt", "sampler", "size", "steps", "guidance", "seed", "count", "strength", "fit", "levels"];
const LEVELS = ["karras", "exponential", "beta"];
const files = {}; // name -> {data, name}: pictures that were chosen, as data URLs
let model = null;

export function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text ?? value;
  return made;
}

/** Offer what the model takes; what was typed before the page was loaded again is put back. */
export function offer(facts) {
  model = facts;
  $("model").textContent = facts.source;
  document.title = `${facts.name} - ondevice`;
  $("prompt-part").hidden = !facts.prompt;
  $("negative-part").hidden = !facts.negative_prompt;
  $("sampler").replaceChildren(...facts.samplers.map((name) => option(name)));
  offerSizes([]);
  const defaults = {
    sampler: facts.sampler, steps: facts.steps, guidance: facts.guidance_scale ?? "", size: facts.size.join("x"),
    strength: facts.strength ?? 0.8,
  };
  for (const [name, value] of Object.entries(defaults)) $(name).value = value;
  $("guidance").parentElement.hidden = facts.guidance_scale === null;
  $("image-part").hidden = !facts.image;
  $("mask-part").hidden = !facts.mask;
  $("strength-part").hidden = facts.strength === null;
  $("pictures-part").replaceChildren(...facts.pictures.map(otherPicture), ...filmNumbers());
  $("taesd-part").hidden = !facts.taesd;
  $("adapters-part").hidden = facts.adapters.length === 0;
  restore();
  showStrength();
}

function offerSizes(more) {
  const sizes = [...model.sizes, ...more].map((size) => size.join("x"));
  const chosen = $("size").value;
  $("size").replaceChildren(...[...new Set(sizes)].map((size) => option(size, size.replace("x", " × "))));
  if (chosen) $("size").value = chosen;
}

/** A field for a picture that only some models take, such as `control`, with its numbers. */
function otherPicture(name) {
  const part = document.createElement("fieldset");
  const legend = document.createElement("legend");
  legend.textContent = name;
  const file = document.createElement("input");
  file.type = "file";
  file.id = `picture-${name}`;
  file.accept = $("image").accept;
  file.setAttribute("aria-label", `Picture: ${name}`);
  const shown = document.createElement("img");
  shown.alt = `The picture ${name}`;
  shown.hidden = true;
  file.addEventListener("change", () => choose(name, file.files[0], shown));
  part.append(legend, file, shown);
  const end = name.replace(/^control/, ""); // the numbers of a net end as its picture's name does
  const numbers = Object.keys(model.numbers).filter(
    (number) => name.startsWith("control") && /^control_(scale|start|end|guess)/.test(number) &&
      number.replace(/^control_(scale|start|end|guess)/, "") === end,
  );
  const grid = document.createElement("div");
  grid.className = "grid";
  for (const number of numbers) grid.append(numberField(number, model.numbers[number]));
  part.append(grid);
  if (name === "control") {
    const label = document.createElement("label");
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", id: "canny" });
    label.append(box, " Take its edges (Canny)");
    part.append(label);
  }
  return part;
}

/** The numbers that a model of films is told: frames per second, how much moves. */
function filmNumbers() {
  if (model.gives !== "frames") return [];
  const part = document.createElement("fieldset");
  const legend = document.createElement("legend");
  const grid = document.createElement("div");
  legend.textContent = "Film";
  grid.className = "grid";
  for (const [name, number] of Object.entries(model.numbers)) grid.append(numberField(name, number));
  part.append(legend, grid);
  return [part];
}

function numberField(name, number) {
  const part = document.createElement("div");
  const label = document.createElement("label");
  label.htmlFor = `number-${name}`;
  label.textContent = name.replaceAll("_", " ");
  const input = document.createElement("input");
  Object.assign(input, { id: `number-${name}`, type: "number", step: "0.05", placeholder: number.default });
  input.dataset.number = name;
  part.append(label, input);
  return part;
}

/** Remember a chosen file, and show it. */
export async function choose(name, file, shown = $("image-shown")) {
  delete files[name];
  shown.hidden = true;
  if (file) {
    const data = await new Promise((done, failed) => {
      const reader = new FileReader();
      reader.onload = () => done(reader.result);
      reader.onerror = () => failed(reader.error);
      reader.readAsDataURL(file);
    });
    files[name] = { data, name: file.name };
    if (name !== "mask") {
      shown.src = URL.createObjectURL(file);
      shown.onload = () => URL.revokeObjectURL(shown.src);
      shown.hidden = false;
    }
  }
  if (name === "image") {
    $("image-settings").hidden = $("image-drop").hidden = !file;
    if (!file) {
      $("image").value = $("mask").value = "";
      delete files.mask;
    }
  }
}

export function addAdapter(name, scale = 1) {
  const row = document.createElement("div");
  row.className = "adapter";
  const select = document.createElement("select");
  select.setAttribute("aria-label", "LoRA");
  select.replaceChildren(...model.adapters.map((adapter) => option(adapter)));
  if (name) select.value = name;
  const input = document.createElement("input");
  Object.assign(input, { type: "number", step: "0.05", min: "-10", max: "10", value: scale });
  input.setAttribute("aria-label", "Scale of the LoRA");
  const drop = document.createElement("button");
  drop.type = "button";
  drop.textContent = "Remove";
  drop.addEventListener("click", () => {
    row.remove();
    $("adapter-add").focus();
    remember();
  });
  row.append(select, input, drop);
  $("adapters").append(row);
  return select;
}

const adapters = () =>
  [...document.querySelectorAll(".adapter")].map((row) => ({
    name: row.querySelector("select").value,
    scale: row.querySelector("input").value === "" ? null : Number(row.querySelector("input").value),
  }));

/** The JSON of POST /api/jobs. */
export function asked(window) {
  const [width, height] = $("size").value.split("x").map(Number);
  const number = (name) => ($(name).value.trim() === "" ? null : Number($(name).value));
  const fields = {
    prompt: $("prompt").value,
    sampler: $("sampler").value || null,
    num_inference_steps: number("steps"),
    guidance_scale: number("guidance"),
    seed: $("seed").value.trim() || null, // a text: JSON's numbers lose digits here
    width, height, window,
    count: number("count") ?? 1,
    adapters: adapters(),
    taesd: $("taesd").checked,
    numbers: {},
    pictures: {},
  };
  if ($("levels").value) fields.sampler_options = { [`use_${$("levels").value}_sigmas`]: true };
  if (model.pictures.includes("control") && $("canny")?.checked) fields.canny = [100, 200];
  if (model.negative_prompt && $("negative_prompt").value) fields.negative_prompt = $("negative_prompt").value;
  for (const input of document.querySelectorAll("[data-number]")) {
    if (input.value !== "") fields.numbers[input.dataset.number] = Number(input.value);
  }
  for (const [name, file] of Object.entries(files)) {
    if (name === "image") {
      Object.assign(fields, { image: file.data, image_name: file.name.slice(0, 200), fit: $("fit").value });
      if (model.strength !== null) fields.strength = Number($("strength").value);
    } else if (name === "mask") fields.mask = file.data;
    else fields.pictures[name] = file.data;
  }
  return fields;
}

/** Put a picture's parameters into the form. Pictures that it was drawn from are not in it. */
export function fill(parameters, size) {
  const put = (name, value) => {
    if (value !== undefined && value !== null) $(name).value = value;
  };
  put("prompt", parameters.prompt);
  $("negative_prompt").value = parameters.negative_prompt ?? "";
  put("sampler", parameters.sampler);
  put("steps", parameters.steps);
  put("guidance", parameters.guidance_scale);
  put("seed", parameters.seed);
  put("strength", parameters.strength);
  $("taesd").checked = parameters.taesd === true;
  $("levels").value = LEVELS.find((name) => parameters[`use_${name}_sigmas`]) ?? "";
  if (model.any_size) offerSizes([size]);
  put("size", size.join("x"));
  $("count").value = 1;
  $("adapters").replaceChildren();
  for (const text of parameters.lora ?? []) {
    const [, name, scale] = /^(.*?)(?::([-\d.e]+))?$/.exec(text);
    if (model.adapters.includes(name)) addAdapter(name, scale ?? 1);
  }
  for (const input of document.querySelectorAll("[data-number]")) input.value = parameters[input.dataset.number] ?? "";
  showStrength();
  remember();
}

export function showStrength() {
  $("strength-shown").textContent = Number($("strength").value).toFixed(2);
}

/** Keep what was typed for this window: it is there when the page is loaded again. */
export function remember() {
  const kept = Object.fromEntries(KEPT.map((name) => [name, $(name).value]));
  sessionStorage.setItem("form", JSON.stringify({ ...kept, adapters: adapters() }));
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem("form") ?? "{}");
  for (const name of KEPT) if (name in kept) $(name).value = kept[name];
  for (const name of ["sampler", "size"]) if (!$(name).value) $(name).selectedIndex = 0;
  for (const { name, scale } of kept.adapters ?? []) if (model.adapters.includes(name)) addAdapter(name, scale ?? "");
}
