// What is drawn, what waits, and what was drawn. The server sends all of its state whenever something changed, so that
// a page that is loaded in the midst of a drawing shows the same as before.

import { addAdapter, asked, choose, fill, offer, remember, showStrength } from "/form.js";

const $ = (name) => document.getElementById(name);
const PAGE = 24; // pictures of the gallery that are asked for at once
const own = ownWindow();
let gallery = []; // what is shown of it, the newest first
let shown = null; // the picture on the stage, as the gallery has it
let picked = false; // by hand: what is drawn next does not take its place until it is done
let drawing = null; // the job that is drawn
let queue = ""; // what is shown of it
let last = {}; // state of own jobs, as they were told last

function ownWindow() {
  let name = sessionStorage.getItem("window");
  if (!name) {
    name = [...crypto.getRandomValues(new Uint8Array(9))].map((byte) => byte.toString(36).padStart(2, "0")).join("");
    sessionStorage.setItem("window", name);
  }
  return name;
}

async function call(method, path, body) {
  const options = { method };
  if (body) Object.assign(options, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Is `ondevice serve` still running?");
  }
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.detail ?? answer.statusText);
  return json;
}

const say = (text) => ($("error").textContent = text);

async function draw() {
  $("draw").disabled = true;
  try {
    const { notes } = await call("POST", "/api/jobs", asked(own));
    say("");
    $("notes").textContent = notes.join(" ");
    picked = false;
    if (matchMedia("(max-width: 54rem)").matches) $("stage").scrollIntoView(); // it is below the form there
  } catch (error) {
    say(error.message);
  } finally {
    $("draw").disabled = false;
  }
}

async function stop(job) {
  if (job.window !== own && !confirm("This was asked for in another window. Cancel it?")) return;
  try {
    await call("DELETE", `/api/jobs/${encodeURIComponent(job.id)}`);
  } catch (error) {
    say(error.message);
  }
}

function seconds(count) {
  if (count < 90) return `${Math.ceil(count)} s`;
  return `${Math.floor(count / 60)} min ${Math.round(count % 60)} s`;
}

/** The state that the server sent. */
function show(state) {
  drawing = state.jobs.find((job) => job.state === "drawing") ?? null;
  const waiting = state.jobs.filter((job) => job.state === "waiting");
  const first = Object.keys(last).length === 0;
  const mine = state.jobs.filter((job) => job.window === own);
  let done = false;
  for (const job of mine) {
    const before = last[job.id];
    const newest = job === mine[mine.length - 1];
    if (job.state === "failed" && before !== "failed" && (!first || newest)) say(job.error.detail);
    if (job.state === "done" && before !== "done" && (!first || newest)) done = job.pictures[job.pictures.length - 1];
  }
  last = Object.fromEntries([["", ""], ...mine.map((job) => [job.id, job.state])]);
  showDrawing(done);
  showQueue(waiting);
  const known = new Set(gallery.map((picture) => picture.name));
  const made = state.jobs.flatMap((job) => job.pictures);
  if (first || made.some((name) => !known.has(name))) readGallery(done);
  else if (done) put(gallery.find((picture) => picture.name === done));
}

/** The progress of what is drawn; `done`: a picture that takes the stage as soon as the gallery has it. */
function showDrawing(done) {
  $("working").hidden = drawing === null;
  if (drawing === null) {
    if (shown && !done) put(shown);
    return;
  }
  const parts = [];
  if (drawing.window !== own) parts.push("For another window");
  if (drawing.count > 1) parts.push(`Picture ${drawing.picture + 1} of ${drawing.count}`);
  parts.push(drawing.step ? `Step ${drawing.step} of ${drawing.steps}` : "Reading the prompt");
  if (drawing.stopping) parts.push("stopping");
  else if (drawing.seconds_left !== null) parts.push(`${seconds(drawing.seconds_left)} left`);
  $("progress-text").textContent = parts.join(" · ");
  if (drawing.step) $("progress").value = drawing.progress;
  else if (drawing.progress === 0) $("progress").removeAttribute("value");
  $("cancel").disabled = drawing.stopping;
  if (drawing.previews && !picked && drawing.window === own) {
    const address = `/api/jobs/${drawing.id}/preview?n=${drawing.previews}`;
    image(address, `A preview of: ${drawing.prompt}`, [drawing.width, drawing.height]);
    $("caption").textContent = drawing.prompt;
    $("picture-actions").hidden = true;
  }
}

function showQueue(waiting) {
  const rows = JSON.stringify(waiting);
  if (rows === queue) return; // its buttons stay under the pointer and keep the focus
  queue = rows;
  $("queue-part").hidden = waiting.length === 0;
  $("queue").replaceChildren(
    ...waiting.map((job) => {
      const item = document.createElement("li");
      const row = document.createElement("div");
      const text = document.createElement("span");
      const whose = job.window === own ? "" : " (another window)";
      text.textContent = `${job.prompt || "(no prompt)"} · ${job.width} × ${job.height}${whose}`;
      item.dataset.place = job.place;
      row.append(text);
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Cancel";
      button.setAttribute("aria-label", `Cancel: ${job.prompt}`);
      button.addEventListener("click", () => stop(job));
      row.append(button);
      item.append(row);
      return item;
    }),
  );
}

/** An image on the stage, at once or when it is there: what was shown stays until then. */
function image(address, text, [width, height]) {
  const picture = $("picture");
  if (picture.getAttribute("src") === address) return;
  $("nothing").hidden = true;
  picture.style.aspectRatio = `${width} / ${height}`;
  picture.src = address;
  picture.alt = text;
  picture.hidden = false;
}

function put(entry) {
  if (!entry) return;
  shown = entry;
  const own = entry.parameters;
  image(`/api/gallery/${encodeURIComponent(entry.name)}`, own.prompt || "A picture", [entry.width, entry.height]);
  const about = [own.prompt, own.seed === undefined ? "" : `seed ${own.seed}`, own.sampler, own.steps && `${own.steps} steps`];
  if (own.guidance_scale !== undefined) about.push(`guidance ${own.guidance_scale}`);
  about.push(`${entry.width} × ${entry.height}`, ...(own.lora ?? []));
  $("caption").textContent = about.filter(Boolean).join(" · ");
  $("picture-actions").hidden = false;
  $("as-image").hidden = $("image-part").hidden;
  $("save").href = `/api/gallery/${encodeURIComponent(entry.name)}`;
  $("save").download = entry.name;
  for (const button of document.querySelectorAll("#gallery button")) {
    button.setAttribute("aria-current", String(button.dataset.name === entry.name));
  }
}

async function readGallery(done, older = false) {
  const after = older && gallery.length ? `&before=${encodeURIComponent(gallery[gallery.length - 1].name)}` : "";
  let read;
  try {
    read = (await call("GET", `/api/gallery?count=${PAGE}${after}`)).pictures;
  } catch (error) {
    say(error.message);
    return;
  }
  const names = new Set(read.map((entry) => entry.name));
  gallery = older ? [...gallery, ...read] : [...read, ...gallery.filter((entry) => !names.has(entry.name))];
  if (older || gallery.length === read.length) $("more").hidden = read.length < PAGE;
  $("gallery").replaceChildren(...gallery.map(thumbnail));
  const wanted = gallery.find((entry) => entry.name === done);
  if (wanted && !(picked && drawing)) picked = false;
  if (wanted && !picked) put(wanted);
  else if (shown === null && drawing === null && gallery.length) put(gallery[0]);
  else if (shown && drawing === null) put(shown);
}

function thumbnail(entry) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.name = entry.name;
  button.title = entry.parameters.prompt ?? entry.name;
  const small = document.createElement("img");
  Object.assign(small, { loading: "lazy", alt: entry.parameters.prompt || entry.name });
  small.src = `/api/gallery/${encodeURIComponent(entry.name)}`;
  button.append(small);
  button.addEventListener("click", () => {
    picked = true;
    put(entry);
    fill(entry.parameters, [entry.width, entry.height]);
  });
  item.append(button);
  return item;
}

function listen() {
  const events = new EventSource("/api/events");
  events.onopen = () => ($("connection").textContent = "");
  events.onmessage = (event) => show(JSON.parse(event.data));
  events.onerror = () => ($("connection").textContent = "The server does not answer; trying again.");
}

function wire() {
  const form = $("form");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  form.addEventListener("input", () => {
    showStrength();
    remember();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      draw();
    } else if (event.key === "Escape" && drawing?.window === own) stop(drawing);
  });
  $("cancel").addEventListener("click", () => drawing && stop(drawing));
  $("image").addEventListener("change", () => choose("image", $("image").files[0]));
  $("image-drop").addEventListener("click", () => choose("image", null));
  $("mask").addEventListener("change", () => choose("mask", $("mask").files[0]));
  $("adapter-add").addEventListener("click", () => {
    addAdapter().focus();
    remember();
  });
  $("again").addEventListener("click", () => shown && fill(shown.parameters, [shown.width, shown.height]));
  $("as-image").addEventListener("click", async () => {
    if (!shown) return;
    const blob = await (await fetch(`/api/gallery/${encodeURIComponent(shown.name)}`)).blob();
    await choose("image", new File([blob], shown.name, { type: blob.type }));
  });
  $("more").addEventListener("click", () => readGallery(null, true));
}

try {
  offer(await call("GET", "/api/model"));
  wire();
  listen();
} catch (error) {
  say(error.message);
}
