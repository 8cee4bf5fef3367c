"""What the webui runs of this extension: finds out where it is, and registers everything."""

from lib_lycoris.hosts import detect

if detect() is None:
    print("LyCORIS: this program is not known to the extension; <lyco:...> does nothing here")
else:
    from lib_lycoris.hosts.webui import files as a1111_shelf
    from lib_lycoris.hosts.webui import register as a1111_register
    from lib_lycoris.hosts.webui.generate import WebuiGenerator
    from lib_lycoris.hosts.webui.interface import tab as a1111_ui
    from lib_lycoris.tools.examine.inspect import inspect
    from lib_lycoris.tools.jobs.queue import shared
    from lib_lycoris.tools.jobs.service import JobService
    from lib_lycoris.ui.context import PageContext
    from lib_lycoris.ui.pages import build_tab
    from lib_lycoris.ui.settings import Settings

    a1111_register.register()
    LycorisRun = a1111_register.script()  # the webui looks for classes of scripts in this module

    store = a1111_shelf.WebuiFileStore()

    def tab():
        """Build the tab, anew at each reload of the UI."""
        context = PageContext(store, shared(), WebuiGenerator(), Settings(store.data_folder() / "pages.json"), "txt2img")
        context.use_checkpoint, context.checkpoint_title = a1111_shelf.use_checkpoint, a1111_shelf.checkpoint_title
        return build_tab(context)

    a1111_ui.register(lambda path: inspect(path).as_dict(), tab, JobService(shared(), store))
