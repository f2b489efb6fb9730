"""What each op means: one module per family. Every op class is here by its name.

ONNX Runtime's own, which share names with ONNX's, are in `contrib`; those of programs
for a mesh of devices in `mesh`.
"""

from . import contrib as contrib, mesh as mesh
from .activation import (
    Celu as Celu,
    Elu as Elu,
    Gelu as Gelu,
    HardSigmoid as HardSigmoid,
    HardSwish as HardSwish,
    LeakyRelu as LeakyRelu,
    Mish as Mish,
    PRelu as PRelu,
    Relu as Relu,
    Selu as Selu,
    Shrink as Shrink,
    Sigmoid as Sigmoid,
    Softplus as Softplus,
    Softsign as Softsign,
    SwiGLU as SwiGLU,
    Swish as Swish,
    ThresholdedRelu as ThresholdedRelu,
)
from .attention import Attention as Attention
from .bitwise import (
    BitShift as BitShift,
    BitwiseAnd as BitwiseAnd,
    BitwiseNot as BitwiseNot,
    BitwiseOr as BitwiseOr,
    BitwiseXor as BitwiseXor,
)
from .columns import Col2Im as Col2Im
from .comparison import (
    And as And,
    Equal as Equal,
    Greater as Greater,
    GreaterOrEqual as GreaterOrEqual,
    IsInf as IsInf,
    IsNaN as IsNaN,
    Less as Less,
    LessOrEqual as LessOrEqual,
    Not as Not,
    Or as Or,
    Where as Where,
    Xor as Xor,
)
from .constant import Constant as Constant
from .contraction import (
    Det as Det,
    Einsum as Einsum,
    Gemm as Gemm,
    MatMul as MatMul,
)
from .control import (
    If as If,
    Loop as Loop,
    Scan as Scan,
    SequenceMap as SequenceMap,
)
from .conversion import (
    BitCast as BitCast,
    Cast as Cast,
    CastLike as CastLike,
    Identity as Identity,
)
from .convolution import (
    CausalConvWithState as CausalConvWithState,
    Conv as Conv,
    ConvTranspose as ConvTranspose,
)
from .cumulative import (
    CumProd as CumProd,
    CumSum as CumSum,
)
from .deformable import DeformConv as DeformConv
from .detection import NonMaxSuppression as NonMaxSuppression
from .dictionaries import (
    CastMap as CastMap,
    DictVectorizer as DictVectorizer,
    ZipMap as ZipMap,
)
from .elementwise import (
    Abs as Abs,
    Acos as Acos,
    Acosh as Acosh,
    Add as Add,
    Asin as Asin,
    Asinh as Asinh,
    Atan as Atan,
    Atanh as Atanh,
    Ceil as Ceil,
    Clip as Clip,
    Cos as Cos,
    Cosh as Cosh,
    Div as Div,
    Erf as Erf,
    Exp as Exp,
    Floor as Floor,
    Log as Log,
    Max as Max,
    Mean as Mean,
    Min as Min,
    Mod as Mod,
    Mul as Mul,
    Neg as Neg,
    Pow as Pow,
    Reciprocal as Reciprocal,
    Round as Round,
    Sign as Sign,
    Sin as Sin,
    Sinh as Sinh,
    Sqrt as Sqrt,
    Sub as Sub,
    Sum as Sum,
    Tan as Tan,
    Tanh as Tanh,
)
from .features import (
    ArrayFeatureExtractor as ArrayFeatureExtractor,
    Binarizer as Binarizer,
    CategoryMapper as CategoryMapper,
    FeatureVectorizer as FeatureVectorizer,
    Imputer as Imputer,
    LabelEncoder as LabelEncoder,
    Normalizer as Normalizer,
    OneHotEncoder as OneHotEncoder,
    Scaler as Scaler,
)
from .flattened import (
    FlatHardmax as FlatHardmax,
    FlatLogSoftmax as FlatLogSoftmax,
    FlatSoftmax as FlatSoftmax,
)
from .flex_attention import FlexAttention as FlexAttention
from .generation import (
    ConstantOfShape as ConstantOfShape,
    EyeLike as EyeLike,
    Range as Range,
    Shape as Shape,
    Size as Size,
    Trilu as Trilu,
)
from .images import ImageDecoder as ImageDecoder
from .indexing import (
    Gather as Gather,
    GatherElements as GatherElements,
    GatherND as GatherND,
    OneHot as OneHot,
    ScatterElements as ScatterElements,
    ScatterND as ScatterND,
    TensorScatter as TensorScatter,
    TopK as TopK,
)
from .linear_attention import LinearAttention as LinearAttention
from .linear_models import (
    LinearClassifier as LinearClassifier,
    LinearRegressor as LinearRegressor,
)
from .losses import (
    NegativeLogLikelihoodLoss as NegativeLogLikelihoodLoss,
    SoftmaxCrossEntropyLoss as SoftmaxCrossEntropyLoss,
)
from .movement import (
    DepthToSpace as DepthToSpace,
    Expand as Expand,
    ReverseSequence as ReverseSequence,
    SpaceToDepth as SpaceToDepth,
    Tile as Tile,
    Transpose as Transpose,
)
from .normalization import (
    LRN as LRN,
    BatchNormalization as BatchNormalization,
    GroupNormalization as GroupNormalization,
    InstanceNormalization as InstanceNormalization,
    LayerNormalization as LayerNormalization,
    MeanVarianceNormalization as MeanVarianceNormalization,
    RMSNormalization as RMSNormalization,
)
from .opaque import Opaque as Opaque
from .optimizers import (
    Adagrad as Adagrad,
    Adam as Adam,
    Momentum as Momentum,
)
from .padding import (
    CenterCropPad as CenterCropPad,
    Pad as Pad,
)
from .pooling import (
    AveragePool as AveragePool,
    GlobalAveragePool as GlobalAveragePool,
    GlobalLpPool as GlobalLpPool,
    GlobalMaxPool as GlobalMaxPool,
    LpPool as LpPool,
    MaxPool as MaxPool,
    MaxUnpool as MaxUnpool,
)
from .quantization import (
    DequantizeLinear as DequantizeLinear,
    DynamicQuantizeLinear as DynamicQuantizeLinear,
    QuantizeLinear as QuantizeLinear,
)
from .quantized import (
    ConvInteger as ConvInteger,
    MatMulInteger as MatMulInteger,
    QLinearConv as QLinearConv,
    QLinearMatMul as QLinearMatMul,
)
from .random import (
    Bernoulli as Bernoulli,
    Dropout as Dropout,
    Multinomial as Multinomial,
    RandomNormal as RandomNormal,
    RandomNormalLike as RandomNormalLike,
    RandomUniform as RandomUniform,
    RandomUniformLike as RandomUniformLike,
)
from .recurrent import (
    GRU as GRU,
    LSTM as LSTM,
    RNN as RNN,
)
from .reduction import (
    ArgMax as ArgMax,
    ArgMin as ArgMin,
    ReduceL1 as ReduceL1,
    ReduceL2 as ReduceL2,
    ReduceLogSum as ReduceLogSum,
    ReduceLogSumExp as ReduceLogSumExp,
    ReduceMax as ReduceMax,
    ReduceMean as ReduceMean,
    ReduceMin as ReduceMin,
    ReduceProd as ReduceProd,
    ReduceSum as ReduceSum,
    ReduceSumSquare as ReduceSumSquare,
)
from .reshaping import (
    Flatten as Flatten,
    Reshape as Reshape,
    Squeeze as Squeeze,
    Unsqueeze as Unsqueeze,
)
from .resize import Resize as Resize
from .rois import (
    MaxRoiPool as MaxRoiPool,
    RoiAlign as RoiAlign,
)
from .rotary import RotaryEmbedding as RotaryEmbedding
from .sampling import (
    AffineGrid as AffineGrid,
    GridSample as GridSample,
)
from .segments import (
    Concat as Concat,
    Slice as Slice,
    Split as Split,
)
from .selection import (
    Compress as Compress,
    NonZero as NonZero,
    Unique as Unique,
)
from .sequence import (
    ConcatFromSequence as ConcatFromSequence,
    Optional as Optional,
    OptionalGetElement as OptionalGetElement,
    OptionalHasElement as OptionalHasElement,
    SequenceAt as SequenceAt,
    SequenceConstruct as SequenceConstruct,
    SequenceEmpty as SequenceEmpty,
    SequenceErase as SequenceErase,
    SequenceInsert as SequenceInsert,
    SequenceLength as SequenceLength,
    SplitToSequence as SplitToSequence,
)
from .signal import (
    DFT as DFT,
    STFT as STFT,
    BlackmanWindow as BlackmanWindow,
    HammingWindow as HammingWindow,
    HannWindow as HannWindow,
    MelWeightMatrix as MelWeightMatrix,
)
from .softmax import (
    Hardmax as Hardmax,
    LogSoftmax as LogSoftmax,
    LpNormalization as LpNormalization,
    Softmax as Softmax,
)
from .strings import (
    RegexFullMatch as RegexFullMatch,
    StringConcat as StringConcat,
    StringNormalizer as StringNormalizer,
    StringSplit as StringSplit,
    TfIdfVectorizer as TfIdfVectorizer,
)
from .strips import Strips as Strips
from .support_vectors import (
    SVMClassifier as SVMClassifier,
    SVMRegressor as SVMRegressor,
)
from .tiled import Tiled as Tiled
from .trees import (
    TreeEnsemble as TreeEnsemble,
    TreeEnsembleClassifier as TreeEnsembleClassifier,
    TreeEnsembleRegressor as TreeEnsembleRegressor,
)
