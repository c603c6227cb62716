"""Operators and types that the ONNX parser of TensorRT 8.5 supports.

From docs/operators.md, builtin_op_importers.cpp and onnx2trt_utils.cpp of onnx-tensorrt, branch 8.5-GA. The parser of
8.6 supports all of these and a few more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto, checker, defs

from acm_export.base.errors import ExportError
from acm_export.onnx_file.lowering.graph import TARGET, refusal
from acm_export.op.quantized_signature import operator_of

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto

OPSET = 17
IR_VERSION = 8
"""IR version of the ONNX release that TensorRT 8.5's parser was built with."""

_PARSED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat
Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool
Greater GreaterOrEqual GridSample GRU HardSigmoid HardSwish Identity InstanceNormalization IsNaN LeakyRelu Less
LessOrEqual Log LogSoftmax LpNormalization LpPool LRN LSTM MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod
Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal RandomNormalLike
RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence RNN RoiAlign Round ScatterElements
ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
"""
PARSED = frozenset(_PARSED.split())
"""Operators of the default domain that the parser supports, except If, Loop and Scan, which contain graphs."""

CHANGED = frozenset({"AveragePool", "GridSample", "LpPool", "Resize"})
"""Operators without a rule whose attributes or inputs changed after opset 17; the others at most gained types."""

ELEMENT_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BOOL,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
    }
)
"""Element types that the parser supports; it reads DOUBLE as FLOAT and INT64 as INT32."""


def check_operator(node: NodeProto, opset: int) -> None:
    """Check that the parser supports a node that has no decomposition.

    Args:
        node: Node of the main graph.
        opset: Version of the graph's default operator set.

    Raises:
        ExportError: The parser does not support the operator, or the operator changed after opset 17.
    """
    if operator_of(node.op_type):
        return
    if node.domain not in ("", "ai.onnx") or node.op_type not in PARSED:
        raise refusal(node, "the ONNX parser of TensorRT 8.5 does not support this operator")
    since = defs.get_schema(node.op_type, opset, "").since_version
    if node.op_type in CHANGED and since > OPSET:
        raise refusal(node, f"the operator changed after opset {OPSET}, in opset {since}")


def check_form(node: NodeProto) -> None:
    """Check a rewritten node against the attributes and inputs of opset 17.

    Raises:
        ExportError: The node uses a newer attribute, input or type.
    """
    if operator_of(node.op_type):
        return
    context = checker.C.CheckerContext()
    context.ir_version, context.opset_imports = IR_VERSION, {"": OPSET}
    try:
        checker.check_node(node, context)
    except checker.ValidationError as error:
        raise refusal(node, str(error).splitlines()[0]) from error


def check_types(graph: GraphProto) -> None:
    """Check that the parser supports the element types of a graph.

    Raises:
        ExportError: A value has an unsupported type.
    """
    values = (*graph.input, *graph.output, *graph.value_info)
    types = [(value.name, value.type.tensor_type.elem_type) for value in values]
    types += [(tensor.name, tensor.data_type) for tensor in graph.initializer]
    for name, element in types:
        if element and element not in ELEMENT_TYPES:
            raise ExportError(
                f"{name} has the type {TensorProto.DataType.Name(element)}, which the target {TARGET} does not support",
                "export the model in fp32 or fp16",
            )
