/* What the LyCORIS pages do by themselves: go from page to page, keys, what is said to screen readers, the tab's title, comparing images.
 * One name is visible outside: lycorisOpen. */
"use strict";

(function() {
    const LONG = 20000; // milliseconds after which the end of a job is worth a notification
    const PLACES = { // what opens under a name: ids, for a webui's localization translates what stands on a tab
        Generate: "lyco_tab_generate", txt2img: "tab_txt2img", Merge: "lyco_tab_merge", Compare: "lyco_tab_inspect",
        Resize: "lyco_tab_change_resize", Convert: "lyco_tab_change_convert",
    };
    const KEPT = "lycoris-tab";
    const TABS = "#lyco_tabs > .tabitem";
    const FOCUSABLE = "button:not([disabled]), input:not([disabled]), textarea:not([disabled]), select:not([disabled]), [tabindex='0']";

    const page = () => document.querySelector("#lyco_page");
    const seen = (element) => element.isConnected && element.getClientRects().length > 0;

    /* Return the button of a tab: Gradio 4 gives it an id, in Gradio 3 the buttons stand in the order of the tabs. */
    function buttonOf(tab) {
        const place = Array.from(tab.parentElement.children).filter((one) => one.matches(".tabitem")).indexOf(tab);
        const inOrder = tab.parentElement.querySelector(":scope > .tab-nav")?.children[place];
        return inOrder && !inOrder.id ? inOrder : document.getElementById(tab.id + "-button");
    }

    const isOpen = (tab) => tab.style.display !== "none"; // also where the tab that it lies in is not open

    /* Open a tab, and those that it lies in. */
    function openTab(tab) {
        const outer = tab.parentElement.closest(".tabitem");
        if (outer) {
            openTab(outer);
        }
        if (!isOpen(tab)) {
            buttonOf(tab)?.click();
        }
    }

    window.lycorisOpen = function(name) {
        const tab = document.getElementById(PLACES[name]);
        if (tab) {
            openTab(tab);
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
        const tab = Array.from(document.querySelectorAll(TABS)).find((one) => event.isTrusted && buttonOf(one)?.contains(event.target));
        if (tab) {
            localStorage.setItem(KEPT, tab.id);
        }
    }, true);
    let tries = 240;
    (function restore() {
        const kept = localStorage.getItem(KEPT);
        const tab = kept && document.getElementById(kept);
        if (!kept || (tab && isOpen(tab) && page()?.dataset.ready) || !tries--) {
            return;
        }
        if (tab && !isOpen(tab)) {
            buttonOf(tab)?.click(); // and looked at again: Gradio opens the first tab itself when it has drawn all of them
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

    /* A slider's field that is left empty takes back what it had; Gradio would make it the lowest value. Heard before Gradio does. */
    const BOX = "#lyco_page input[type=number]";
    document.addEventListener("focus", (event) => {
        if (event.target instanceof Element && event.target.matches(BOX)) {
            event.target.dataset.lycoBefore = event.target.value;
        }
    }, true);
    document.addEventListener("blur", (event) => {
        const box = event.target instanceof Element && event.target.matches(BOX) ? event.target : null;
        if (box && box.value === "" && box.dataset.lycoBefore && box.closest(".block")?.querySelector("input[type=range]")) {
            box.value = box.dataset.lycoBefore;
            box.dispatchEvent(new Event("input", {bubbles: true}));
        }
    }, true);

    /* On a phone the image is below: it is brought into sight. */
    document.addEventListener("click", (event) => {
        if (event.target instanceof Element && event.target.closest("#lyco_generate") && window.innerWidth <= 768) {
            document.querySelector("#lyco_progress")?.scrollIntoView({block: "start"});
        }
    });

    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-notify]") : null;
        const says = (word) => { button.textContent = word === "granted" ? "You will be told" : "This browser does not allow it"; };
        if (button) {
            Promise.resolve("Notification" in window ? Notification.requestPermission() : "denied").then(says);
        }
    });

    /* The settings of an image of the list go into the fields of Generate. */
    document.addEventListener("click", (event) => {
        const button = event.target instanceof Element ? event.target.closest("[data-lyco-settings]") : null;
        const area = document.querySelector("#lyco_info textarea");
        if (button && area) {
            area.value = button.dataset.lycoSettings;
            area.dispatchEvent(new Event("input", {bubbles: true}));
            window.lycorisOpen("Generate");
            window.setTimeout(() => document.querySelector("#lyco_info_use")?.click(), 200);
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
    const jobs = new Map(); // place of a progress bar -> when it began, the quarter that was said
    let told = "";

    function name(text) {
        if (document.querySelector("#lyco_title")) { // in the webui the title is the webui's
            document.title = text;
        }
    }

    function follow(place, percent) {
        const quarter = Math.floor(percent / 25);
        const job = jobs.get(place);
        if (!job) {
            jobs.set(place, {began: Date.now(), quarter: quarter});
            say("Started");
        } else if (quarter > job.quarter) {
            job.quarter = quarter;
            say(`${25 * quarter} percent`);
        }
    }

    function end(place, began) {
        const text = document.getElementById(place)?.innerText.trim() || "Ended";
        say(text);
        name(`${text.split(/[.,](?:\s|$)/)[0]} - ${title}`);
        window.setTimeout(rest, 5000);
        if (Date.now() - began > LONG && !document.hasFocus() && "Notification" in window && Notification.permission === "granted") {
            new Notification("LyCORIS", {body: text});
        }
    }

    /* What has ended stands in the title until it is seen. */
    function rest() {
        if (!jobs.size && document.hasFocus()) {
            name(title);
        }
    }

    function look() {
        const bars = new Map(Array.from(page().querySelectorAll("[role=progressbar]"),
            (bar) => [bar.closest("[id]").id, Number(bar.getAttribute("aria-valuenow"))]));
        bars.forEach((percent, place) => follow(place, percent));
        for (const [place, job] of Array.from(jobs).filter(([place]) => !bars.has(place))) {
            jobs.delete(place);
            end(place, job.began);
        }
        if (bars.size) { // jobs that wait for another are at 0
            name(`${Math.max(...bars.values())} % - ${title}`);
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

    window.addEventListener("focus", rest);

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
