/* What the LyCORIS pages do by themselves: go from page to page, keys, what is said to screen readers, the tab's title, comparing images.
 * One name is visible outside: lycorisOpen. */
"use strict";

(function() {
    const LONG = 20000; // milliseconds after which the end of a job is worth a notification
    const PARTS = {Compare: ["Inspect"], Resize: ["Resize, convert, bake", "Resize"], Convert: ["Resize, convert, bake", "Convert"]};
    const KEPT = "lycoris-tab";
    const TABS = "#lyco_tabs > .tab-nav > button, #lyco_tabs > .tab-wrapper button[role=tab]";
    const FOCUSABLE = "button:not([disabled]), input:not([disabled]), textarea:not([disabled]), select:not([disabled]), [tabindex='0']";

    const page = () => document.querySelector("#lyco_page");
    const seen = (element) => element.isConnected && element.getClientRects().length > 0;

    function tabs() {
        return Array.from(document.querySelectorAll(TABS));
    }

    function openTab(name) {
        const tab = tabs().find((button) => button.textContent.trim() === name);
        if (tab) {
            tab.click();
        }
        return Boolean(tab);
    }

    window.lycorisOpen = function(name) {
        const [first, second] = PARTS[name] || [name];
        openTab(first);
        if (second) {
            const inner = Array.from(document.querySelectorAll("#lyco_page .tabitem .tab-nav > button, #lyco_page .tabitem button[role=tab]"));
            inner.find((button) => button.textContent.trim() === second)?.click();
        }
        if (name === "Compare") {
            const open = document.querySelector("#lyco_inspect_compare");
            if (open && !document.querySelector("#lyco_inspect_run")?.getClientRects().length) {
                open.querySelector("button, .label-wrap")?.click();
            }
        }
    };

    /* The last tab opens again. Heard on the way down: on the way up Gradio has put another button in the place of the one that was clicked. */
    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest(TABS) : null;
        if (button && event.isTrusted) {
            localStorage.setItem(KEPT, button.textContent.trim());
        }
    }, true);
    let tries = 240;
    (function restore() {
        const name = localStorage.getItem(KEPT);
        const there = tabs().find((button) => button.textContent.trim() === name);
        const open = there && (there.matches(".selected") || there.getAttribute("aria-selected") === "true");
        if (!name || (open && page()?.dataset.ready) || !tries--) {
            return;
        }
        if (!open) {
            there?.click(); // and looked at again: Gradio opens the first tab itself when it has drawn all of them
        }
        window.setTimeout(restore, 250);
    })();

    /* Ctrl+Enter starts what the page is for; up and down go from block to block. */
    document.addEventListener("keydown", (event) => {
        const target = event.target;
        if (!(target instanceof Element) || !target.closest("#lyco_page")) {
            return;
        }
        if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
            for (let panel = target.closest(".tabitem"); panel; panel = panel.parentElement.closest(".tabitem")) {
                const button = Array.from(panel.querySelectorAll("button.primary")).find((one) => seen(one) && !one.disabled);
                if (button) {
                    event.preventDefault();
                    target.blur(); // a field gives its value up when it is left
                    target.focus();
                    button.click();
                    return;
                }
            }
        }
        const step = {ArrowUp: -1, ArrowDown: 1}[event.key];
        if (step && target.matches("#lyco_blocks_picture input[type=range]")) {
            const all = Array.from(document.querySelectorAll("#lyco_blocks_picture input[type=range]"));
            event.preventDefault();
            all[Math.min(Math.max(all.indexOf(target) + step, 0), all.length - 1)].focus();
        }
    });

    /* On a phone the image is below: it is brought into sight. */
    document.addEventListener("click", (event) => {
        if (event.target instanceof Element && event.target.closest("#lyco_generate") && window.innerWidth <= 768) {
            document.querySelector("#lyco_progress")?.scrollIntoView({block: "start"});
        }
    });

    document.addEventListener("click", (event) => {
        if (event.target instanceof Element && event.target.closest("[data-lyco-notify]") && "Notification" in window) {
            Notification.requestPermission();
        }
    });

    /* What takes something away asks first. */
    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-ask], .lyco_ask") : null;
        if (button && !window.confirm(button.dataset.lycoAsk || button.textContent.trim() + "?")) {
            event.stopImmediatePropagation();
            event.preventDefault();
        }
    }, true);

    /* Buttons of the list of results: what they do and what with goes into the page's field. */
    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-do]") : null;
        const field = document.querySelector("#lyco_results_action :is(textarea, input)");
        if (button && field) {
            field.value = JSON.stringify({do: button.dataset.lycoDo, id: button.dataset.id, at: Date.now()});
            field.dispatchEvent(new Event("input", {bubbles: true}));
        }
    });

    /* Two images over each other: the slider says how much of the first is seen. */
    document.addEventListener("input", (event) => {
        const slider = event.target instanceof Element ? event.target.closest(".lyco_compare input[type=range]") : null;
        if (slider) {
            slider.closest(".lyco_compare").style.setProperty("--at", slider.value + "%");
        }
    });

    /* One region that stays says the start, each quarter, the end and errors. */
    let region = null;
    function say(text) {
        if (!region || !region.isConnected) {
            region = document.createElement("div");
            region.id = "lyco_live";
            region.className = "lyco_unseen";
            region.setAttribute("role", "status");
            region.setAttribute("aria-live", "polite");
            page().appendChild(region);
        }
        if (text && region.textContent !== text) {
            region.textContent = text;
        }
    }

    const title = document.title;
    let job = null; // {bar's place, when it began, the quarter that was said}
    let told = "";

    function name(text) {
        if (document.querySelector("#lyco_title")) { // in the webui the title is the webui's
            document.title = text;
        }
    }

    function look() {
        const bar = page().querySelector("[role=progressbar]");
        if (bar) {
            const percent = Number(bar.getAttribute("aria-valuenow"));
            job = job || {place: bar.closest("[id]").id, began: Date.now(), quarter: 0, fresh: true};
            const quarter = Math.floor(percent / 25);
            if (job.fresh || quarter > job.quarter) {
                say(job.fresh ? "Started" : `${25 * quarter} percent`);
                job.quarter = quarter;
                job.fresh = false;
            }
            name(`${percent} % - ${title}`);
        } else if (job) {
            const text = document.getElementById(job.place)?.innerText.trim() || "Ended";
            say(text);
            name(`${text.split(/[.,]/)[0]} - ${title}`);
            if (Date.now() - job.began > LONG && document.hidden && "Notification" in window && Notification.permission === "granted") {
                new Notification(title, {body: text});
            }
            job = null;
        }
        const errors = Array.from(page().querySelectorAll(".lyco_note.worse")).filter(seen).map((note) => note.innerText).join(" ");
        if (errors !== told) {
            told = errors;
            if (errors) {
                say(errors);
            }
        }
        keepFocus();
    }

    window.addEventListener("focus", () => {
        if (!job) {
            name(title);
        }
    });

    /* The focus never falls to the body: where its element went away or was switched off, the nearest one takes it. */
    let last = null;
    document.addEventListener("focusin", (event) => {
        last = [];
        for (let element = event.target; element && element !== page(); element = element.parentElement) {
            last.push(element);
        }
    });

    function keepFocus() {
        if (document.activeElement !== document.body || !last || !last.length || (seen(last[0]) && !last[0].disabled)) {
            return;
        }
        for (const place of last.slice(1)) {
            const next = place.isConnected && Array.from(place.querySelectorAll(FOCUSABLE)).find((one) => seen(one) && one !== last[0]);
            if (next) {
                next.focus({preventScroll: true});
                return;
            }
        }
    }

    let waiting = 0;
    const observer = new MutationObserver(() => {
        waiting = waiting || window.setTimeout(() => {
            waiting = 0;
            look();
        }, 150);
    });
    (function begin() {
        if (page()) {
            say("");
            if (document.querySelector("#lyco_title")) { // in the webui what is the main part is the webui's to say
                page().setAttribute("role", "main");
            }
            observer.observe(page(), {subtree: true, childList: true, attributes: true, attributeFilter: ["aria-valuenow", "disabled"]});
        } else {
            window.setTimeout(begin, 500);
        }
    })();
})();
