// Sends an image or video to the service; shows the classes, the time per stage and the model's robustness card.

// Endpoint and form field by media type. The columns of a video's clips need every class.
const KINDS = {
  image: { path: "/classify", field: "image", noun: "image", classes: 5 },
  video: { path: "/classify_video", field: "video", noun: "video", classes: 1000 },
};
const VIDEO_NAMES = /\.(3gp|avi|m4v|mkv|mov|mp4|mpe?g|ogv|ts|webm|wmv)$/i; // some browsers do not know their media types
const SHOWN = 5;
const SAMPLES = ["ship", "airplane", "automobile", "frog"];
const VIDEOS = { "ship: zoom, pan, still": "ship", "airplane: pan, shake, zoom": "airplane", "frog: turning": "frog" };
const SAMPLE_SIZE = 256;
const STAGES = [
  ["upload", "upload"], ["decode", "decode"], ["queue", "queue"], ["compute", "compute"], ["rest", "network and browser"],
];
const ATTACKERS = {
  whitebox: ["White-box", "the gradient through both networks: the figure to rely on"],
  artifact: ["White-box, as files", "white-box images, rounded to uint8 and classified by the exported file"],
  graybox: ["Gray-box", "the gradient through the target network only"],
  blackbox: ["Black-box", "queries only, no gradients"],
  transfer: ["Transfer", "adversarial examples for the same network without the defence"],
  "substitute-transfer": ["Transfer from the substitute", "adversarial examples for a classifier built on the public substitute"],
};

const $ = (id) => document.getElementById(id);
let key = "";
let modalities = {}; // by model name
let certifying = new Set(); // names of the models that can prove something of an answer
let proved = null; // the last answer with a certificate

function element(tag, text, properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text, ...properties });
}

function bar(share, kind = "") {
  const track = element("div", "", { className: "track", ariaHidden: "true" });
  const filled = element("div", "", { className: `bar ${kind}` });
  filled.style.width = `${100 * share}%`;
  track.append(filled);
  return track;
}

const seconds = (value) => `${value.toFixed(1)} s`;
const percent = (share) => `${(100 * share).toFixed(1)}%`;

async function ask(path, options = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { ...options, headers });
  const body = await response.json();
  if (response.status === 401) $("key-form").hidden = false;
  if (!response.ok) throw Object.assign(new Error(body.error.message), { code: body.error.code });
  return [body, response];
}

// Use the chosen model for inputs that it accepts; otherwise the service chooses.
function query(kind, certify = false) {
  const chosen = $("model").value, wanted = new URLSearchParams();
  if (kind) wanted.set("top_k", KINDS[kind].classes);
  if (chosen && (!kind || modalities[chosen] === kind)) wanted.set("model", chosen);
  const answering = wanted.get("model") ?? Object.keys(modalities).find((name) => modalities[name] === kind);
  if (certify && certifying.has(answering)) wanted.set("certify", "true");
  return `?${wanted}`;
}

// With a certificate if the model has one and it is ready before the deadline.
async function classify(kind, form) {
  const { path } = KINDS[kind];
  try {
    return await ask(path + query(kind, true), { method: "POST", body: form });
  } catch (problem) {
    if (problem.code !== "deadline_exceeded") throw problem;
    return ask(path + query(kind), { method: "POST", body: form });
  }
}

function proof({ kind, certified, patch, radius, confidence }) {
  if (kind === "masks") {
    const sticker = `of up to ${patch[1]} × ${patch[0]} pixels of the model's input`;
    return certified ? `Proved: no sticker ${sticker} could have changed this answer.` : `Not proved: a sticker ${sticker} might change this answer.`;
  }
  return certified
    ? `Proved with ${percent(confidence)} confidence: no change of an L2 norm below ${radius.toFixed(2)} (pixels from 0 to 1) could have changed this answer.`
    : "Not proved: the classes of noisy copies are too close to each other.";
}

function showProof(body) {
  proved = body.certificate ? body : null;
  $("proof").hidden = !proved;
  $("views").open = false;
  $("views").hidden = !(body.certificate?.views ?? body.clips?.[0].certificate?.views);
  if (!proved) return;
  $("proof").textContent = proof(body.certificate);
  $("proof").classList.toggle("proved", body.certificate.certified);
}

// The input as the model sees it, with one mask each, and the class that it gives.
async function showViews() {
  if (!$("views").open || !proved) return;
  const views = proved.certificate.views ?? proved.clips[0].certificate.views;
  const [{ input }] = await ask(`/model?${new URLSearchParams({ model: proved.model.name })}`);
  $("masked").replaceChildren(...views.map((view) => {
    const canvas = element("canvas", "", { width: input.width, height: input.height });
    draw(canvas, input);
    canvas.getContext("2d").fillStyle = "#808080";
    canvas.getContext("2d").fillRect(view.left, view.top, view.width, view.height);
    const item = element("li", "");
    item.append(canvas, element("span", view.label, { className: view.label === proved.label ? "" : "bad" }));
    return item;
  }));
}

function draw(canvas, { width, height, fit }) {
  const source = $("preview-clip").hidden ? $("preview") : $("preview-clip");
  const [w, h] = [source.naturalWidth || source.videoWidth, source.naturalHeight || source.videoHeight];
  const scale = fit === "crop" ? Math.max(width / w, height / h) : null;
  const [wide, high] = scale ? [w * scale, h * scale] : [width, height];
  canvas.getContext("2d").drawImage(source, (width - wide) / 2, (height - high) / 2, wide, high);
}

function showClasses({ top = [], clips = [] }) {
  const hasClips = clips.length > 1;
  $("classes").replaceChildren(...top.slice(0, SHOWN).map((row) => {
    const item = element("li", "");
    const name = element("div", "", { className: "name" });
    name.append(element("span", row.label), element("span", percent(row.probability)));
    item.append(name, bar(row.probability), ...(hasClips ? [strip(clips, row.label)] : []));
    return item;
  }));
  $("moments").hidden = !hasClips;
  if (hasClips) $("moments").textContent = `Columns: ${clips.length} clips of the video, from ${seconds(clips[0].start)} to ${seconds(clips.at(-1).end)}.`;
}

// One class over time: a column for each clip of the video.
function strip(clips, label) {
  const shares = clips.map(({ top }) => top.find((row) => row.label === label)?.probability ?? 0);
  const text = clips.map(({ start, end }, i) => `${seconds(start)} to ${seconds(end)}: ${percent(shares[i])}`).join(", ");
  const columns = element("div", "", { className: "strip", role: "img", ariaLabel: `${label}, ${text}`, title: text });
  columns.append(...shares.map((share) => {
    const column = element("i", "");
    column.style.height = `${100 * share}%`;
    return column;
  }));
  return columns;
}

function showTime(response, total) {
  const timing = (response.headers.get("Server-Timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  const spent = Object.fromEntries([...timing].map(([, stage, milliseconds]) => [stage, Number(milliseconds)]));
  spent.rest = Math.max(0, total - Object.values(spent).reduce((sum, value) => sum + value, 0));
  const seen = STAGES.filter(([stage]) => stage in spent);
  $("split").replaceChildren(...seen.map(([stage]) => {
    const part = element("div", "", { className: stage });
    part.style.width = `${(100 * spent[stage]) / total}%`;
    return part;
  }));
  $("legend").replaceChildren(...seen.map(([stage, words]) => {
    const item = element("li", "");
    item.append(element("i", "", { className: stage }), `${words} ${spent[stage].toFixed(1)} ms`);
    return item;
  }));
}

function showWho(body) {
  const rows = { Bundle: `${body.model.name}, version ${body.model.version}`, Provider: body.provider, Digest: body.model.digest };
  $("who").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

async function send(blob, name) {
  const kind = VIDEO_NAMES.test(name) ? "video" : blob.type.split("/")[0];
  if (!KINDS[kind]) return say(`${name} is not an ${Object.values(KINDS).map(({ noun }) => noun).join(" or a ")}.`, true);
  const { field, noun } = KINDS[kind];
  preview(blob, name, kind, noun);
  say(`Classifying ${name}…`);
  const form = new FormData();
  form.append(field, blob, name);
  const started = performance.now();
  try {
    const [body, response] = await classify(kind, form);
    const total = performance.now() - started;
    say(`${name}: ${body.label}${body.label_only ? "" : `, ${percent(body.probability)}`}.`);
    showClasses(body);
    showProof(body);
    showTime(response, total);
    showWho(body);
    $("details").hidden = false;
    if ($("model").value !== body.model.name) {
      $("model").value = body.model.name;
      describe();
    }
  } catch (problem) {
    say(`${name}: ${problem.message}`, true);
    $("classes").replaceChildren();
    $("moments").hidden = $("details").hidden = $("proof").hidden = $("views").hidden = true;
  }
}

function preview(blob, name, kind, noun) {
  for (const shown of [$("preview"), $("preview-clip")]) {
    URL.revokeObjectURL(shown.src);
    shown.removeAttribute("src");
    shown.hidden = true;
  }
  const description = `The ${noun} ${name}`;
  $("invitation").hidden = true;
  Object.assign(kind === "video" ? $("preview-clip") : $("preview"), {
    src: URL.createObjectURL(blob), alt: description, ariaLabel: description, hidden: false,
  });
}

// The samples are SVG drawings; send them as PNG.
async function toPng(image) {
  const canvas = element("canvas", "", { width: SAMPLE_SIZE, height: SAMPLE_SIZE });
  canvas.getContext("2d").drawImage(image, 0, 0, SAMPLE_SIZE, SAMPLE_SIZE);
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function offer(name, drawing, load) {
  const button = element("button", "", { type: "button" });
  const image = element("img", "", { src: `/page/${drawing}.svg`, alt: "", width: SAMPLE_SIZE, height: SAMPLE_SIZE });
  button.append(image, name);
  button.addEventListener("click", async () => send(await load(image), name));
  const item = element("li", "");
  item.append(button);
  return item;
}

function offerSamples() {
  const accepted = Object.values(modalities);
  const images = SAMPLES.map((name) => offer(name, name, toPng));
  const videos = Object.entries(VIDEOS).map(([name, drawing]) => (
    offer(name, drawing, async () => (await fetch(`/page/${drawing}.mp4`)).blob())
  ));
  $("samples").replaceChildren(...(accepted.includes("image") ? images : []), ...(accepted.includes("video") ? videos : []));
}

// Wilson score interval, as on the card.
function interval({ correct, n }) {
  const z = 1.959964, p = correct / n;
  const middle = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
  const half = (z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))) / (1 + (z * z) / n);
  return [Math.max(0, middle - half), Math.min(1, middle + half)];
}

function chartRow([title, words], accuracy, kind) {
  const share = accuracy.correct / accuracy.n;
  const [low, high] = interval(accuracy);
  const row = element("tr", "", { className: kind });
  const who = element("th", "", { scope: "row" });
  who.append(element("strong", title), element("span", words));
  const cell = element("td", `${percent(share)} of ${accuracy.n.toLocaleString("en")}`);
  const track = bar(share);
  const whisker = element("div", "", { className: "whisker", title: `95%: ${percent(low)} to ${percent(high)}` });
  whisker.style.left = `${100 * low}%`;
  whisker.style.width = `${100 * (high - low)}%`;
  track.append(whisker);
  cell.append(track);
  row.append(who, cell);
  return row;
}

function showCard({ card, name, input }) {
  const noun = input.sampling ? "video" : "image";
  const worst = Object.entries(card.worst).sort(([a], [b]) => Object.keys(ATTACKERS).indexOf(a) - Object.keys(ATTACKERS).indexOf(b));
  const budgets = [...new Set(card.attacks.filter(({ norm }) => norm === "Linf").map(({ eps }) => `${Math.round(255 * eps)}/255`))];
  const rows = card.clean ? [chartRow(["None", `clean ${noun}s`], card.clean, "plain")] : [];
  rows.push(...worst.map(([threat, accuracy]) => chartRow(ATTACKERS[threat] ?? [threat, ""], accuracy, "")));
  const patches = card.attacks.filter(({ norm, threat_model }) => norm === "patch" && threat_model === "whitebox");
  rows.push(...patches.map(({ attack, eps, accuracy }) => chartRow(["White-box, patch", `a rectangle on ${Math.round(100 * eps)}% of the ${noun} (${attack})`], accuracy, "")));
  const { rule, points } = card.certification ?? { points: [] };
  const certified = points.filter(({ patch, radius }) => (patch ? `${patch}` === `${rule.masks.patch}` : radius > 0)); // other patches need other masks
  rows.push(...certified.map(({ patch, radius, certified: accuracy }) => (
    chartRow(["Any, proved", patch ? `any rectangle of ${patch[1]} × ${patch[0]} pixels` : `any change of an L2 norm below ${radius}`], accuracy, "")
  )));
  if (card.corruptions) {
    const { mean, constants, results } = card.corruptions;
    const n = results[0].accuracy.n;
    rows.push(chartRow(["Corruptions", `mean of ${constants}'s noise, blur, weather and compression`], { correct: Math.round(mean * n), n }, "plain"));
  }
  const relied = card.worst.whitebox;
  $("worth-lead").textContent = relied
    ? `Under white-box attack, ${name} classifies ${percent(relied.correct / relied.n)} of the ${noun}s correctly.`
    : certified.length ? `What ${name} proves of its answers holds against every attacker.` : `The robustness of ${name} has not been measured.`;
  $("chart-caption").textContent = `Measured on ${card.data}: the worst attack for each ${noun}`
    + (budgets.length ? `, Linf up to ${budgets.join(" or ")}` : "") + "; patches are separate. The line in a bar is the 95% interval.";
  $("chart").tBodies[0].replaceChildren(...rows);
  $("chart-frame").hidden = rows.length === 0;
  const raised = card.sanity.filter(({ raised }) => raised).map(({ check, detail }) => `Failed sanity check: ${check} (${detail}).`);
  $("limits").replaceChildren(...[...raised, ...card.limits].map((text) => element("li", text)));
}

async function offerModels() {
  const [{ models }] = await ask("/models");
  $("model").append(...models.map(({ model }) => element("option", model.name, { value: model.name })));
  $("model-choice").hidden = models.length < 2;
  modalities = Object.fromEntries(models.map(({ model, modality }) => [model.name, modality]));
  certifying = new Set(models.filter(({ certifies }) => certifies).map(({ model }) => model.name));
  offerSamples();
}

async function describe() {
  try {
    if (!$("model").options.length) await offerModels();
    const [body] = await ask(`/model${query()}`);
    showCard(body);
  } catch (problem) {
    $("worth-lead").textContent = problem.message;
  }
}

$("file").addEventListener("change", ({ target }) => target.files[0] && send(target.files[0], target.files[0].name));
$("model").addEventListener("change", describe);
$("views").addEventListener("toggle", showViews);
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  $("key-form").hidden = true;
  describe();
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
    const file = name === "drop" && event.dataTransfer.files[0];
    if (file) send(file, file.name);
  });
}
$("preview-clip").addEventListener("error", () => { $("preview-clip").hidden = true; });
describe();
