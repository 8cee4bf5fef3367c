"""What the webui runs of this extension: finds out where it is, and registers everything."""

from lib_lycoris.hosts import detect
from lib_lycoris.hosts.webui.adapters import unsupported
from lib_lycoris.ui.uncollected import uncollected

host = detect()
if host is None:
    print(unsupported())
else:
    with uncollected():
        from lib_lycoris.hosts.library.cards import LibraryCards
        from lib_lycoris.hosts.webui import files, folders, register
        from lib_lycoris.hosts.webui.generate import WebuiGenerator
        from lib_lycoris.hosts.webui.interface import tab as interface
        from lib_lycoris.tools.jobs.queue import shared
        from lib_lycoris.tools.jobs.service import JobService
        from lib_lycoris.ui.context import PageContext
        from lib_lycoris.ui.loaded import LoadedModel
        from lib_lycoris.ui.pages import HostTab
        from lib_lycoris.ui.settings import Settings
    applies = host.webui.applies
    if applies:
        LycorisRun = register.script()  # the webui looks for classes of scripts in this module
        interface.register_settings()
    ours = (register.register, interface.register) if applies else (register.refuse,)

    store, cards, generator = files.WebuiFileStore(), LibraryCards(files.library), WebuiGenerator() if applies else None

    def tab():
        """Return the tab, anew at each reload of the UI."""
        context = PageContext(store, shared(), settings=Settings(store.kept_folder() / folders.FIELDS), networks=cards)
        context.checkpoint_title, context.unload = files.checkpoint_title, files.unload
        if applies:
            context.generator, context.send, context.use_checkpoint = generator, "txt2img", files.use_checkpoint
        return HostTab(context)

    inspect, service = LoadedModel(lambda: generator, store).described, JobService(shared(), store)
    register.before_ui(*ours, lambda: interface.register_tools(inspect, tab, service))
