"""A provider plugin of package `shelf`: jars whose size is the length of their label.  Speaks Pulumi's protocol."""

# ruff: noqa: N802 - the methods have the names of the protocol
import contextlib
from concurrent import futures

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2


def struct_of(content):
    struct = struct_pb2.Struct()
    struct.update(content)
    return struct


class ShelfProvider(provider_pb2_grpc.ResourceProviderServicer):
    prefix = ""

    def Handshake(self, _request, _context):
        return provider_pb2.ProviderHandshakeResponse()

    def GetPluginInfo(self, _request, _context):
        return plugin_pb2.PluginInfo(version="1.2.3")

    def CheckConfig(self, request, _context):
        return provider_pb2.CheckResponse(inputs=request.news)

    def DiffConfig(self, _request, _context):
        return provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_NONE)

    def Configure(self, request, _context):
        self.prefix = dict(request.args).get("prefix", "")
        return provider_pb2.ConfigureResponse(supportsPreview=True)

    def Check(self, request, _context):
        return provider_pb2.CheckResponse(inputs=request.news)

    def Diff(self, request, _context):
        old, new = json_format.MessageToDict(request.olds), json_format.MessageToDict(request.news)
        changed = [key for key in new if old.get(key) != new[key]]
        detailed = {key: provider_pb2.PropertyDiff(kind=provider_pb2.PropertyDiff.UPDATE) for key in changed}
        return provider_pb2.DiffResponse(
            changes=2 if changed else 1, diffs=changed, hasDetailedDiff=True, detailedDiff=detailed
        )

    def _outputs(self, properties):
        content = json_format.MessageToDict(properties)
        label = content.get("label")
        size = len(label) if isinstance(label, str) else label
        return struct_of({**content, "size": size, "where": self.prefix})

    def _refuse_cracked(self, context, id_, properties):
        """A jar labelled `cracked` is there, but not as it should be."""
        if properties["label"] == "cracked":
            failure = provider_pb2.ErrorResourceInitFailed(
                id=id_, properties=self._outputs(properties), reasons=["the jar is cracked", "it leaks"]
            )
            status = status_pb2.Status(code=2, message="half made")
            status.details.add().Pack(failure)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.UNKNOWN, "half made")

    def Create(self, request, context):
        id_ = "" if request.preview else f"jar-{request.name}"
        if not request.preview:
            self._refuse_cracked(context, id_, request.properties)
        made = self._outputs(request.properties)
        made["seconds"] = request.timeout
        return provider_pb2.CreateResponse(id=id_, properties=made)

    def Update(self, request, context):
        if not request.preview:
            self._refuse_cracked(context, request.id, request.news)
        return provider_pb2.UpdateResponse(properties=self._outputs(request.news))

    def Delete(self, _request, _context):
        return empty_pb2.Empty()

    def Read(self, request, _context):
        return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)

    def Invoke(self, request, _context):
        return provider_pb2.InvokeResponse(**{"return": struct_of({"value": len(request.args["of"])})})


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(8))
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(ShelfProvider(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    with contextlib.suppress(KeyboardInterrupt):
        server.wait_for_termination()
