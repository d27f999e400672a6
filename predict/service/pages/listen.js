// The page of predict/serveModel.py: gives a sound to /api/detect and shows what was found.
"use strict";
const $ = id => document.getElementById(id);
const audio = $("audio"), status = $("status");
// Distinct for the colour-blind too (Okabe and Ito 2008); black text is readable on each.
const COLOURS = ["#56b4e9", "#e69f00", "#2bbf8f", "#f0e442", "#cc79a7", "#ff8c42", "#cccccc"];
const LANES = 6, MOST_NAMED = 5;
let limits = {most_seconds: 120, most_bytes: Infinity}, facts = new Map(), answer = null, shownUrl = "";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}
function say(text, busy = false) { status.textContent = text; status.classList.toggle("busy", busy); }
function complain(text) { $("problem").textContent = text; $("problem").hidden = !text; if (text) say(""); }

// The interface

function token() { try { return sessionStorage.getItem("token") || ""; } catch (error) { return ""; } }
async function ask(address, options = {}) {
  const headers = token() ? {Authorization: "Bearer " + token()} : {};
  let response;
  try { response = await fetch(address, {...options, headers}); }
  catch (error) { throw new Error("The service cannot be reached."); }
  if (response.ok) return response;
  $("token-form").hidden = response.status !== 401;
  const problem = await response.json().catch(() => ({}));
  throw new Error(problem.detail || `The service answers ${response.status}.`);
}

async function start() {
  try {
    limits = await (await ask("/api/version")).json();
    facts = new Map((await (await ask("/api/species")).json()).map(own => [own.class_id, own]));
    const kept = limits.keeps ? "Sounds that you give are kept." : "Nothing that you give is kept.";
    $("about").textContent = `${limits.species} species, ${limits.model}, version ${limits.version}. ` +
      `Up to ${limits.most_seconds} s and ${Math.round(limits.most_bytes / 1e6)} MB. ${kept}`;
    showLanguages();
    await showSamples();
    if (!token()) $("runs").hidden = !(await fetch("/runs", {method: "GET"})).ok;
    complain("");
  } catch (error) { complain(error.message); }
}
async function showSamples() {
  const samples = await (await ask("/api/samples")).json();
  $("samples").hidden = !samples.length;
  $("samples").querySelector("ul").replaceChildren(...samples.map(sample => {
    const button = make("button", {type: "button", textContent: sample.species});
    button.onclick = async () => {
      try { await listen(await (await ask(sample.address)).blob(), sample.name); } catch (error) { complain(error.message); }
    };
    const credit = [sample.author, sample.licence].filter(Boolean).join(", ");
    return make("li", {}, button, credit ? make("small", {textContent: credit}) : "");
  }));
}

// Giving a sound

let turn = 0; // of the sound that was given last: what comes late is dropped
async function listen(sound, name) {
  const own = ++turn;
  complain("");
  $("result").hidden = true;
  audio.pause();
  if (sound.size > limits.most_bytes) return complain(`At most ${Math.round(limits.most_bytes / 1e6)} MB; this has ${Math.round(sound.size / 1e6)}.`);
  say(`Listening to ${name} ...`, true);
  try {
    const found = await (await ask("/api/detect", {method: "POST", body: sound})).json();
    if (own !== turn) return;
    answer = found;
    say("");
    show(sound);
  } catch (error) { if (own === turn) complain(error.message); }
}
$("file").onchange = () => { const file = $("file").files[0]; if (file) listen(file, file.name); $("file").value = ""; };
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, event => {
  event.preventDefault();
  $("drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files.length) listen(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
});

// The microphone

let recorder = null;
$("record").onclick = async () => {
  complain("");
  $("record").disabled = true; // until it is hidden: a second click would open the microphone twice
  try { await record(); } finally { $("record").disabled = false; }
};
async function record() {
  if (!navigator.mediaDevices || !window.MediaRecorder) return complain("This browser records only over https, or from this very machine.");
  let stream;
  try { stream = await navigator.mediaDevices.getUserMedia({audio: {echoCancellation: false, noiseSuppression: false, autoGainControl: false}}); }
  catch (error) { return complain("The microphone cannot be used: " + error.message); }
  const pieces = [], begun = Date.now();
  let timer = 0;
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = event => pieces.push(event.data);
  recorder.onstop = () => {
    clearInterval(timer);
    stream.getTracks().forEach(track => track.stop());
    recording(false);
    const type = recorder.mimeType.split(";")[0], sound = new Blob(pieces, {type});
    const download = $("download");
    if (download.href) URL.revokeObjectURL(download.href);
    download.href = URL.createObjectURL(sound);
    download.download = `recording-${new Date().toISOString().slice(0, 19).replaceAll(":", "")}.${{"audio/mp4": "m4a"}[type] || type.split("/")[1]}`;
    download.hidden = $("replay").hidden = false;
    listen(sound, "the recording");
  };
  audio.pause();
  recorder.start();
  recording(true);
  const tick = () => {
    const seconds = (Date.now() - begun) / 1000;
    $("clock").textContent = `${seconds.toFixed(0)} s`;
    if (seconds >= limits.most_seconds - 1 && recorder.state === "recording") recorder.stop();
  };
  tick();
  timer = setInterval(tick, 250);
}
function recording(on) {
  $("record").hidden = on;
  $("stop").hidden = $("clock").hidden = !on;
  if (on) { $("replay").hidden = $("download").hidden = true; say("Recording ..."); }
  (on ? $("stop") : $("record")).focus();
}
$("stop").onclick = () => { if (recorder && recorder.state === "recording") recorder.stop(); };
$("replay").onclick = () => { audio.src = $("download").href; audio.currentTime = 0; audio.play().catch(() => {}); };

// What was found

function nameOf(entry) {
  return entry.names[$("language").value] || entry.vernacular_name || entry.scientific_name || entry.class_id;
}
function showLanguages() {
  const shown = code => { try { return new Intl.DisplayNames([code], {type: "language"}).of(code) || code; } catch (error) { return code; } };
  const options = limits.languages.map(code => make("option", {value: code, textContent: shown(code), lang: code}));
  $("language").replaceChildren(make("option", {value: "", textContent: "as in the corpus"}), ...options);
  $("language-choice").hidden = !options.length;
  const wanted = navigator.language || "";
  $("language").value = limits.languages.find(code => code === wanted || code === wanted.split("-")[0]) || "";
}
$("language").onchange = () => { if (answer) showSpecies(); };

function show(sound) {
  if (shownUrl) URL.revokeObjectURL(shownUrl);
  shownUrl = URL.createObjectURL(sound);
  audio.src = shownUrl;
  $("spectrogram").src = answer.picture;
  $("edge").replaceChildren(make("span", {textContent: `${answer.highest / 1000} kHz`}), make("span", {textContent: "0"}));
  $("axis").replaceChildren(make("span", {textContent: "0 s"}), make("span", {textContent: `${answer.duration.toFixed(1)} s`}));
  $("cursor").style.left = "0";
  showSpecies();
  $("result").hidden = false;
  $("result-title").focus();
}
function showSpecies() {
  const groups = new Map();
  for (const found of answer.detections) groups.set(found.class_id, [...(groups.get(found.class_id) || []), found]);
  const best = own => own.reduce((a, b) => b.score > a.score ? b : a);
  const ordered = [...groups.values()].sort((a, b) => best(b).score - best(a).score);
  const colour = i => COLOURS[i % COLOURS.length];
  $("result-title").textContent = ordered.length ? `${ordered.length} species heard` : "No birds detected";
  $("spectrogram").alt = `Spectrogram of ${answer.duration.toFixed(1)} seconds` +
    (ordered.length ? " with " + ordered.map(own => nameOf(own[0])).join(", ") : "");
  $("marks").replaceChildren(...ordered.flatMap((own, i) => own.map(found => {
    const mark = make("button", {type: "button", textContent: nameOf(found), title: `${nameOf(found)}, score ${found.score.toFixed(2)}`});
    mark.setAttribute("aria-label", `Play ${nameOf(found)} from ${found.start.toFixed(1)} to ${found.end.toFixed(1)} s`);
    mark.style.cssText = `left:${100 * found.start / answer.duration}%;width:${100 * (Math.min(found.end, answer.duration) - found.start) / answer.duration}%;` +
      `top:${0.2 + 1.7 * (i % LANES)}rem;background:${colour(i)}`;
    mark.onclick = event => { event.stopPropagation(); playFrom(found.start); };
    return mark;
  })));
  const cards = ordered.map((own, i) => card(best(own), colour(i), own));
  if (!cards.length) cards.push(...answer.ranking.slice(0, MOST_NAMED).map(entry => card(entry, "", [])));
  $("species").replaceChildren(...(ordered.length ? [] : [make("li", {textContent: "Nothing is clear enough. The network comes closest to:"})]), ...cards);
}
function card(entry, colour, heard) {
  const title = make("h3", {textContent: nameOf(entry) + " "});
  if (colour) { const swatch = make("span", {className: "swatch"}); swatch.style.background = colour; title.prepend(swatch); }
  if (entry.scientific_name && entry.scientific_name !== nameOf(entry)) title.append(make("i", {textContent: entry.scientific_name, lang: "la"}));
  const meter = make("meter", {min: 0, max: 1, value: entry.score});
  meter.setAttribute("aria-label", "score");
  const text = ` score ${entry.score.toFixed(2)}` + (entry.probability === undefined ? "" : `, right in about ${Math.max(1, Math.min(99, Math.round(100 * entry.probability)))} of 100 cases`);
  const times = make("p", {className: "times"}, ...heard.map(found => {
    const button = make("button", {type: "button", textContent: `${found.start.toFixed(1)} - ${found.end.toFixed(1)} s`});
    button.setAttribute("aria-label", `Play from ${found.start.toFixed(1)} s`);
    button.onclick = () => playFrom(found.start);
    return button;
  }));
  const own = facts.get(entry.class_id) || {links: {}};
  const links = Object.entries(own.links).map(([site, href]) => make("a", {href, textContent: site, target: "_blank", rel: "noopener noreferrer"}));
  return make("li", {}, title, make("p", {}, meter, text), times, make("p", {}, ...links.flatMap(link => [link, " "])));
}

// Playing

function playFrom(seconds) { audio.currentTime = seconds; audio.play().catch(() => complain("This browser cannot play the recording; it was listened to all the same.")); }
$("stage").onclick = event => {
  const box = $("stage").getBoundingClientRect();
  playFrom((event.clientX - box.left) / box.width * answer.duration);
};
function follow() {
  if (answer) $("cursor").style.left = Math.min(100, 100 * audio.currentTime / answer.duration) + "%";
  if (!audio.paused) requestAnimationFrame(follow);
}
for (const kind of ["play", "seeked", "timeupdate"]) audio.addEventListener(kind, follow);

$("save").onclick = () => {
  const {picture, ...rest} = answer;
  const link = make("a", {href: URL.createObjectURL(new Blob([JSON.stringify(rest, null, 1)], {type: "application/json"})), download: "birds.json"});
  link.click();
  URL.revokeObjectURL(link.href);
};
$("token-form").onsubmit = event => {
  event.preventDefault();
  if (!/^[\x21-\x7e]+$/.test($("token").value)) return complain("A token has letters, digits and signs of ASCII only.");
  try { sessionStorage.setItem("token", $("token").value); } catch (error) { /* private window */ }
  $("token-form").hidden = true;
  start();
};
start();
